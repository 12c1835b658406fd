"""Tries the bucket the way attachments use it: a small object is put, read back and deleted."""

from __future__ import annotations

import secrets
from hashlib import sha256
from io import BytesIO
from typing import Final

from backend.cli.outcome import Outcome, failed, passed, warning
from backend.transfer.object_store.errors import (
    BucketMissing,
    ObjectCorrupted,
    ObjectStoreError,
    Unreachable,
    UnusableSettings,
)
from backend.transfer.object_store.protocols import ObjectStore
from backend.transfer.stores import open_object_store
from config.settings import Durability, StorageSettings

_NAME: Final = "Bucket"
_CONTENT: Final = b"isen check wrote this object; it may be deleted.\n"


def check(settings: StorageSettings) -> Outcome:
    """A missing bucket is not created here, even with CreateBucket."""
    where = f"{settings.bucket_name} at {settings.endpoint or f'AWS {settings.region}'}"
    try:
        store = open_object_store(settings, connections=1, enters_keys=False)
    except (UnusableSettings, ObjectStoreError) as error:
        return failed(_NAME, str(error))
    key = "/".join(filter(None, (settings.root_path, f"isen-check-{secrets.token_hex(8)}")))
    try:
        _put_get_delete(store, key)
    except BucketMissing as error:
        if settings.create_bucket:
            return warning(_NAME, f"{where} does not exist yet; Isen makes it when it starts (CreateBucket is true)")
        return failed(_NAME, str(error))
    except Unreachable as error:
        remedy = "correct Isen.Storage.Endpoint, or start the server, or open the way to it"
        if settings.durability is Durability.SPOOL:
            remedy += "; Isen starts all the same and keeps images in the spool"
        return failed(_NAME, f"{error}; {remedy}")
    except ObjectStoreError as error:
        return failed(_NAME, str(error))
    return passed(_NAME, f"{where}: an object was put, read back and deleted")


def _put_get_delete(store: ObjectStore, key: str) -> None:
    """Leaves nothing behind, unless the store refuses to delete: then that is the error."""
    store.put(key, BytesIO(_CONTENT), len(_CONTENT), sha256(_CONTENT).digest())
    try:
        with store.get(key) as found:
            content = b"".join(found.chunks())
        if content != _CONTENT:
            raise ObjectCorrupted(f"the bucket gave other bytes for {key} than were put")
    finally:
        store.delete(key)
