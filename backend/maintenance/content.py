"""The bytes of objects: whether they are those that were stored, and which DICOM instance they are of."""

from __future__ import annotations

import struct
import zlib
from hashlib import md5, sha1, sha256
from io import BytesIO
from typing import Final

from pydicom import dcmread

from backend.transfer.object_store.errors import ObjectCorrupted
from backend.transfer.object_store.protocols import GetObject

_IDENTIFIERS: Final = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_PREAMBLE: Final = 128  # bytes before "DICM", PS3.10 7.1
_LARGEST: Final = 4 * 1024**3  # bytes; an object that claims to inflate to more is no DICOM file


def compare(store: GetObject, key: str, size: int, expected_md5: str) -> str | None:
    """Read an object and say what is wrong with it, or None if these are the bytes that were stored.

    `size` and `expected_md5` are the index's ("" = it has none); the SHA-256 stored with the object counts too.

    Raises:
        ObjectStoreError: it could not be read.
    """
    stored, from_index, count = sha256(), md5(usedforsecurity=False), 0
    with store.get(key) as found:
        for chunk in found.chunks():
            stored.update(chunk)
            from_index.update(chunk)
            count += len(chunk)
    if count != size:
        return f"has {count} bytes; the index says {size}"
    if found.attributes.digest not in (None, stored.digest()):
        return "its bytes do not have the SHA-256 they were stored with"
    if expected_md5 and from_index.hexdigest() != expected_md5:
        return "its bytes do not have the MD5 in Orthanc's index"
    return None


def read(store: GetObject, key: str) -> bytes:
    """The whole object, verified against its SHA-256 where there is one.

    Raises:
        ObjectCorrupted: it has other bytes.
        ObjectStoreError: it could not be read.
    """
    with store.get(key) as found:
        content = b"".join(found.chunks())
    if found.attributes.digest not in (None, sha256(content).digest()):
        raise ObjectCorrupted(f"{key} does not have the SHA-256 it was stored with")
    return content


def dicom_file(content: bytes) -> bytes | None:
    """The DICOM file in an attachment, which Orthanc's StorageCompression may have deflated; None if it is none."""
    if content[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return content
    # ZlibWithSize: the inflated size in eight bytes, little endian, then a zlib stream
    if len(content) < 10:
        return None
    (size,) = struct.unpack_from("<Q", content)
    if not _PREAMBLE < size <= _LARGEST:
        return None
    try:
        inflated = zlib.decompressobj().decompress(content[8:], size)
    except zlib.error:
        return None
    is_dicom = len(inflated) == size and inflated[_PREAMBLE : _PREAMBLE + 4] == b"DICM"
    return inflated if is_dicom else None


def orthanc_id(dicom: bytes) -> str | None:
    """Orthanc's identifier of the instance in a DICOM file, which may end before its pixel data.

    SHA-1 of the four identifiers joined by "|", as five groups of eight hexadecimal digits; None if there are none.
    """
    try:
        data_set = dcmread(BytesIO(dicom), stop_before_pixels=True, specific_tags=list(_IDENTIFIERS))
        values = [str(data_set.get(keyword) or "").strip(" \0") for keyword in _IDENTIFIERS]
    except Exception:  # noqa: BLE001 - strangers' bytes: pydicom meets anything in them, and may nest too deeply
        return None
    if not all(values[1:]):
        return None
    digest = sha1("|".join(values).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))
