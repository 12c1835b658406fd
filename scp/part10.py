"""The DICOM File Format around a data set (PS3.10 7.1): preamble, prefix and file meta information.

The preamble is ours and all zero: what a peer could put there (an executable's header, for one) reaches no disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

_PREAMBLE_AND_PREFIX: Final = bytes(128) + b"DICM"
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<L")
_FILE_META_VERSION: Final = struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01"
_MAXIMUM_META_LENGTH: Final = 64 * 1024  # bytes; a real one has some hundred


class NotPart10(ValueError):
    """The file has no file meta information."""


@dataclass(frozen=True)
class FileMeta:
    """What file meta information says of its data set; empty strings for what is missing."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str


def file_header(meta: FileMeta, source_ae_title: str) -> bytes:
    """Preamble, prefix and file meta information, to be followed by the data set."""
    elements = b"".join((
        _FILE_META_VERSION,
        _element(0x0002, b"UI", meta.sop_class_uid),
        _element(0x0003, b"UI", meta.sop_instance_uid),
        _element(0x0010, b"UI", meta.transfer_syntax),
        _element(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID),
        _element(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION),
        _element(0x0016, b"AE", source_ae_title),
    ))  # fmt: skip
    return _PREAMBLE_AND_PREFIX + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def read_file_meta(file: BinaryIO) -> FileMeta:
    """Read the file meta information and leave `file` at the first byte of the data set.

    The group length is not relied upon: files without it, or with a wrong one, are common enough.

    Raises:
        NotPart10: there is no prefix; `file` is left at its start, for it may be a bare data set.
    """
    head = file.read(_MAXIMUM_META_LENGTH)
    if head[128:132] != b"DICM":
        file.seek(0)
        raise NotPart10("no DICM prefix")
    values, end = _values(head, len(_PREAMBLE_AND_PREFIX))
    file.seek(end)
    return FileMeta(values.get(0x0002, ""), values.get(0x0003, ""), values.get(0x0010, ""))


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(0x0002, element, vr, len(value)) + value


def _values(head: bytes, offset: int) -> tuple[dict[int, str], int]:
    """UIDs of group 0002 by element number, and the offset of the first element beyond the group."""
    values = {}
    while offset + _SHORT.size <= len(head):
        group, element, vr, length = _SHORT.unpack_from(head, offset)
        if group != 0x0002:
            break
        offset += _SHORT.size
        if vr in (b"OB", b"UN", b"UT"):
            if offset + _LONG.size > len(head):
                break
            (length,) = _LONG.unpack_from(head, offset)
            offset += _LONG.size
        elif vr == b"UI":
            values[element] = head[offset : offset + length].decode("latin_1").strip("\0 ")
        offset += length
    return values, offset
