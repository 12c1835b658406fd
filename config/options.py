"""Types of single options: the rule a value must keep, and where in Orthanc's configuration it is written.

A setting without a source is an option of its own section under its own name (`SpoolDirectory` of `Isen.Storage`).
`Annotated[…, From("DicomPort")]` names one of Orthanc's options instead, `Derived()` says that `config.loader` works
the value out, and `Megabytes` that the option ends in `MB`. No message repeats the value it refuses: it may be a secret
in the wrong place.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

MEGABYTE: Final = 1024 * 1024
LONGEST_AE_TITLE: Final = 16  # PS3.5 6.2, VR AE
HL7_CHARACTER_SETS: Final = (  # HL7 table 0211, as far as scp.hl7.message reads them
    *("ASCII", "8859/1", "8859/2", "8859/3", "8859/4", "8859/5", "8859/6", "8859/7", "8859/8", "8859/9", "8859/15"),
    *("UNICODE UTF-8", "ISO IR14", "ISO IR87", "GB 18030-2000", "KS X 1001", "BIG-5"),
)


@dataclass(frozen=True)
class From:
    """The setting is this option of Orthanc, at the top level of the configuration."""

    option: str


@dataclass(frozen=True)
class Derived:
    """The setting is worked out from several options."""


@dataclass(frozen=True)
class Unit:
    """The option's name ends in `suffix` and its number counts `size` bytes."""

    suffix: str
    size: int


class Unusable(ValueError):
    """The value cannot be used; the sentence goes on where the option's path ends ("must …", "is …")."""


def _ae_title(value: str) -> str:
    """PS3.5 6.2: at most 16 characters of the default repertoire, no backslash, not only spaces."""
    title = value.strip(" ")
    if not title:
        raise Unusable("is empty; write an application entity title of 1 to 16 characters")
    if len(title) > LONGEST_AE_TITLE:
        raise Unusable(f"has {len(title)} characters; an application entity title has at most {LONGEST_AE_TITLE}")
    if "\\" in title or not all(" " <= character <= "~" for character in title):
        raise Unusable("must consist of ASCII characters, without backslash and control characters (PS3.5 6.2)")
    return title


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise Unusable("must be an absolute path (it begins with `/`), because Orthanc may start in any folder")
    return value


def _bucket(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", value):
        raise Unusable("must be 3 to 63 letters, digits, dots and hyphens, with a letter or digit at both ends")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise Unusable("is empty; is the environment variable it comes from set?")
    return value


def _region(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+", _not_empty(value)):
        raise Unusable('must be a region such as "eu-west-1"; servers other than AWS take "us-east-1"')
    return value


def _endpoint(value: str) -> str:
    """Empty, or scheme, host and maybe port; a slash at the end is dropped."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Unusable('is not an address; write it as "https://host:port"') from None
    if parts.scheme not in ("http", "https") or "://" not in value:
        raise Unusable('must begin with "http://" or "https://"')
    if not host or port == 0:
        raise Unusable('must name a host and a usable port, as in "https://host:9000"')
    if "@" in parts.netloc:
        raise Unusable("must not hold a user name or password; use AccessKey and SecretKey")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Unusable("must end after the port; a prefix of the keys belongs into RootPath")
    return value.rstrip("/")


def _http_url(value: str) -> str:
    """Scheme, host, port and path of a server; a slash at the end is dropped."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise Unusable('is not an address; write it as "https://host:8042"')
    if "@" in parts.netloc:
        raise Unusable("must not hold a user name or password; use Username and Password")
    return value.rstrip("/")


def _root_path(value: str) -> str:
    if value.startswith("/"):
        raise Unusable("must not begin with `/`: keys of objects have no leading slash")
    if any(part in ("", ".", "..") for part in value.rstrip("/").split("/")) and value:
        raise Unusable("must be names joined by single slashes, without `.` and `..`")
    if not value.isprintable():
        raise Unusable("must not hold control characters")
    return value.rstrip("/")


def _storage_class(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", value):
        raise Unusable('must be a storage class such as "STANDARD_IA", or empty for the server\'s own choice')
    if value in ("GLACIER", "DEEP_ARCHIVE"):
        raise Unusable(
            f"must not be {value}: Isen could not read what it stores, because objects of this class must be restored "
            "first; GLACIER_IR needs no restoring"
        )
    return value


def _tags(value: dict[str, str]) -> dict[str, str]:
    """What S3 allows: 10 tags, keys of 1 to 128 and values of 0 to 256 characters."""
    if len(value) > 10:
        raise Unusable("has more than 10 tags, which is all that S3 allows")
    for key, text in value.items():
        if not 1 <= len(key) <= 128 or len(text) > 256 or key.startswith("aws:"):
            raise Unusable("must have keys of 1 to 128 characters, not beginning with aws:, and values of at most 256")
        if not re.fullmatch(r"[\w .:/=+@-]*", key + text):
            raise Unusable("must consist of letters, digits, spaces and . : / = + @ _ -, which is all that S3 allows")
    return value


def _key_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,32}", value):
        raise Unusable("must be named with 1 to 32 letters, digits, dots, hyphens and underscores")
    return value


def _key_source(value: str) -> str:
    """A path, or `env:NAME`. Never the key itself, which would end up in backups of the configuration."""
    if not re.fullmatch(r"/.+|env:[A-Za-z_][A-Za-z0-9_]*", value):
        raise Unusable('must be the absolute path of a file with the key, or "env:NAME" for an environment variable')
    return value


def _past_moment(value: str) -> str:
    """Empty, or a moment in the past, in ISO 8601 with its offset from UTC."""
    if value:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise Unusable('must be a moment with its time zone, such as "2026-11-26T12:00:00Z"')
        if moment > datetime.now(UTC):
            raise Unusable("lies in the future: what is put there until then could not be told from what was before")
    return value


def _kms_key(value: str) -> str:
    if not re.fullmatch(r"[!-~]*", value):
        raise Unusable("must be the id, the ARN or the alias of a KMS key, without spaces")
    return value


def _host(value: str) -> str:
    if not value.strip() or any(character.isspace() for character in value):
        raise Unusable("must be a host name or an IP address")
    if ":" in value:
        try:
            ipaddress.IPv6Address(value)
        except ValueError:
            raise Unusable("must be a host name or an IP address; the port is an option of its own") from None
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise Unusable('must be an IP address or a network such as "192.0.2.0/24"') from None
    return value


def _hl7_character_set(value: str) -> str:
    if value not in HL7_CHARACTER_SETS:
        raise Unusable(f"must be one of {', '.join(HL7_CHARACTER_SETS)}")
    return value


def _uid_pattern(value: str) -> str:
    if not re.fullmatch(r"[0-9.*?]{1,64}", value):
        raise Unusable("must be a UID of digits and dots; `*` and `?` are wild cards")
    return value


def _uid(value: str) -> str:
    if not re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+", value) or len(value) > 64:
        raise Unusable("must be a UID: numbers without leading zeros joined by dots, at most 64 characters")
    return value


AeTitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, AfterValidator(_host)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]
Uid = Annotated[str, AfterValidator(_uid)]
UidPattern = Annotated[str, AfterValidator(_uid_pattern)]
Hl7CharacterSet = Annotated[str, AfterValidator(_hl7_character_set)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
BucketName = Annotated[str, AfterValidator(_bucket)]
Region = Annotated[str, AfterValidator(_region)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
RootPath = Annotated[str, AfterValidator(_root_path)]
StorageClass = Annotated[str, AfterValidator(_storage_class)]
Tags = Annotated[dict[str, str], AfterValidator(_tags)]
KeyId = Annotated[str, AfterValidator(_key_id)]
KeySource = Annotated[str, AfterValidator(_key_source)]
PastMoment = Annotated[str, AfterValidator(_past_moment)]
KmsKey = Annotated[str, AfterValidator(_kms_key)]
NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]  # a wait that must end, and must not end at once
Pause = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]  # a wait that may be none
Megabytes = Annotated[int, Field(ge=1, le=2**60), Unit("MB", MEGABYTE)]  # bytes once loaded
MegabytesOrNone = Annotated[int, Field(ge=0, le=2**60), Unit("MB", MEGABYTE)]  # the same, or 0
