"""What can go wrong with an object store, told apart by what helps.

    ObjectStoreError
    ├── Unreachable            no connection, no answer in time, or an answer that ended early
    ├── Throttled              503 SlowDown, 429: ask less often
    ├── ServerFailed           5xx: its own mistake
    ├── ClockSkewed            403 RequestTimeTooSkewed
    ├── AccessDenied           403: a policy forbids this operation; never means that an object is missing
    ├── CredentialsRefused     wrong, expired or absent keys
    ├── WrongKey               the keys of Isen.Storage.Encryption are not the bucket's
    ├── OptionRefused          StorageClass, Tags or ServerSideEncryption are not what this server does
    ├── BucketUnusable         wrong region, redirected
    │   └── BucketMissing      404 NoSuchBucket
    └── ObjectError            about this one object; others are not concerned
        ├── ObjectMissing      404 NoSuchKey
        ├── ObjectArchived     403 InvalidObjectState: it must be restored first
        ├── ObjectCorrupted    what came is not what was stored
        ├── ObjectOfAnotherKey it is encrypted with a key that is not here; nothing says that it is damaged
        ├── ObjectUnencrypted  it should be encrypted and is not
        ├── ContentChanged     the local bytes are not those of the digest; nothing was stored
        └── RequestRefused     another 4xx; BadDigest is one: bytes were altered on their way

Messages are sentences for the operator; they carry keys (which name no patient) and never secrets.
"""

from __future__ import annotations

from typing import ClassVar


class ObjectStoreError(Exception):
    """An operation on the object store did not do what it promises."""

    kind: ClassVar[str]  # the word for it in messages to the plugin
    state: ClassVar[str]  # ObjectStore.State of the report while it lasts
    retry_helps: ClassVar[bool] = True  # time alone may mend it; False: somebody must change something
    concerns_all: ClassVar[bool] = True  # the same would happen to other keys
    code = ""  # S3's word for it


class Unreachable(ObjectStoreError):
    kind = "unreachable"
    state = "Unreachable"


class Throttled(ObjectStoreError):
    kind = "throttled"
    state = "Throttled"


class ServerFailed(ObjectStoreError):
    kind = "unreachable"
    state = "Failing"
    concerns_all = False  # until it happens to several in a row


class ClockSkewed(ObjectStoreError):
    kind = "clock"
    state = "ClockSkewed"


class AccessDenied(ObjectStoreError):
    kind = "denied"
    state = "Denied"
    retry_helps = False


class CredentialsRefused(ObjectStoreError):
    kind = "credentials"
    state = "CredentialsRefused"
    retry_helps = False


class WrongKey(ObjectStoreError):
    kind = "wrong-key"
    state = "WrongKey"
    retry_helps = False


class OptionRefused(ObjectStoreError):
    kind = "denied"
    state = "OptionRefused"
    retry_helps = False


class BucketUnusable(ObjectStoreError):
    kind = "bucket"
    state = "BucketUnusable"
    retry_helps = False


class BucketMissing(BucketUnusable):
    state = "BucketMissing"


class ObjectError(ObjectStoreError):
    state = "Failing"
    concerns_all = False


class ObjectMissing(ObjectError):
    kind = "missing"


class ObjectArchived(ObjectError):
    kind = "archived"
    retry_helps = False


class ObjectCorrupted(ObjectError):
    kind = "corrupted"


class ObjectOfAnotherKey(ObjectError):
    kind = "wrong-key"
    retry_helps = False


class ObjectUnencrypted(ObjectError):
    kind = "unencrypted"
    retry_helps = False


class ContentChanged(ObjectError):
    kind = "corrupted"
    retry_helps = False


class RequestRefused(ObjectError):
    kind = "denied"


class UnusableSettings(Exception):
    """The settings cannot be turned into a connection at all; the message names the setting and the remedy."""
