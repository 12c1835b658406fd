"""The SOP Common identifiers of an encoded data set, read from its first elements without decoding it.

SOPClassUID (0008,0016) and SOPInstanceUID (0008,0018) stand among the first elements of every composite instance
(PS3.5 7.1: elements come in the order of their tags). Only the first `HEAD_LENGTH` bytes are looked at, so neither a
large nor a deflated data set costs more than a small one, and nothing a peer writes there can make this loop or grow.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from mmap import ACCESS_READ, mmap
from typing import BinaryIO, Final

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from scp.upper_layer.nesting import NestingError, check_nesting

HEAD_LENGTH: Final = 64 * 1024  # bytes, after inflation
LARGEST_INFLATED: Final = 256 * 1024 * 1024  # bytes; Orthanc needs several times as much memory to parse them

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_DELIMITERS: Final = (0xFFFEE00D, 0xFFFEE0DD)
DEFLATED: Final = (
    DeflatedExplicitVRLittleEndian,
    "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
    "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
)
_RAW_DEFLATE: Final = -15  # PS3.5 A.5: RFC 1951 without header
_inflating: Final = threading.Lock()  # many peers at once must not fill the memory
_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)


class NotADataSet(ValueError):
    """The bytes are not a data set in this transfer syntax, or its identifiers are beyond `HEAD_LENGTH`."""


@dataclass(frozen=True)
class SopCommon:
    """Empty strings for what is missing or empty."""

    sop_class_uid: str
    sop_instance_uid: str


def read_sop_common(data_set: BinaryIO, transfer_syntax: str) -> SopCommon:
    """Read the identifiers; `data_set` is left where it was.

    Raises:
        NotADataSet: see there.
    """
    start = data_set.tell()
    head = data_set.read(HEAD_LENGTH)
    data_set.seek(start)
    if transfer_syntax in DEFLATED:
        head = _inflate(head)
    implicit, big = transfer_syntax == ImplicitVRLittleEndian, transfer_syntax == ExplicitVRBigEndian
    try:
        found = _Walker(head, implicit=implicit, big=big).values(_SOP_CLASS_UID, _SOP_INSTANCE_UID)
    except struct.error:
        raise NotADataSet("the data set ends, or its first elements do not") from None
    return SopCommon(found.get(_SOP_CLASS_UID, ""), found.get(_SOP_INSTANCE_UID, ""))


def inflates_beyond(data_set: BinaryIO, maximum: int) -> bool:
    """Whether a deflated data set is longer than `maximum` bytes when inflated; it is left where it was.

    Takes as long as inflating it up to there, and 64 KB of memory.

    Raises:
        NotADataSet: it cannot be inflated.
    """
    start = data_set.tell()
    inflater = zlib.decompressobj(_RAW_DEFLATE)
    length = 0
    try:
        while length <= maximum and not inflater.eof:
            block = inflater.unconsumed_tail or data_set.read(HEAD_LENGTH)
            if not block:
                break
            length += len(inflater.decompress(block, HEAD_LENGTH))
    except zlib.error:
        raise NotADataSet("the data set cannot be inflated") from None
    finally:
        data_set.seek(start)
    return length > maximum


def nests_beyond(data_set: BinaryIO, transfer_syntax: str, maximum: int) -> bool:
    """Whether sequences are nested deeper than `maximum` levels; `data_set` is at its start, and left there.

    One that ends inside an element is judged by what comes before. Costs 0.04 ms for a CT image of 200 elements. A
    deflated one is inflated into memory, one of this process at a time; beyond `LARGEST_INFLATED` it counts as too
    deep.
    """
    try:
        with _content(data_set, deflated=transfer_syntax in DEFLATED) as content:
            check_nesting(
                content,
                implicit=transfer_syntax == ImplicitVRLittleEndian,
                little_endian=transfer_syntax != ExplicitVRBigEndian,
                maximum=maximum,
            )
    except NestingError:
        return True
    except struct.error:
        return False
    finally:
        data_set.seek(0)
    return False


@contextmanager
def _content(data_set: BinaryIO, *, deflated: bool) -> Iterator[bytes | mmap]:
    if deflated:
        with _inflating:
            inflater = zlib.decompressobj(_RAW_DEFLATE)
            content = inflater.decompress(data_set.read(), LARGEST_INFLATED)
            if inflater.unconsumed_tail:
                raise NestingError("too large to be looked at")
            yield content
    elif isinstance(data_set, BytesIO):
        yield data_set.getvalue()
    else:
        with mmap(data_set.fileno(), 0, access=ACCESS_READ) as mapped:
            yield mapped


def _inflate(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(_RAW_DEFLATE).decompress(head, HEAD_LENGTH)
    except zlib.error:
        raise NotADataSet("the data set cannot be inflated") from None


class _Walker:
    """Steps over the elements of `head`; every step moves forward."""

    def __init__(self, head: bytes, *, implicit: bool, big: bool) -> None:
        order = ">" if big else "<"
        self._head = head
        self._implicit = implicit
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "L")

    def values(self, *wanted: int) -> dict[int, str]:
        """Text of the wanted top-level elements; the walk ends at the last of them or at the first tag beyond it."""
        found: dict[int, str] = {}
        offset, previous = 0, 0
        while offset < len(self._head):
            tag, length, value = self._element(offset)
            if tag <= previous or tag < 0x00080000:
                raise NotADataSet("elements out of order, or of a group that data sets do not have")
            if tag > wanted[-1]:
                break
            offset = self._end(length, value)
            if tag in wanted:
                if offset > len(self._head):
                    raise NotADataSet("a UID longer than its data set")
                found[tag] = self._head[value:offset].decode("latin_1").strip("\0 ")
            previous = tag
        return found

    def _element(self, offset: int) -> tuple[int, int, int]:
        """Tag, length and offset of the value."""
        group, element = self._tag.unpack_from(self._head, offset)
        tag = group << 16 | element
        if self._implicit or group == 0xFFFE:
            return tag, self._long.unpack_from(self._head, offset + 4)[0], offset + 8
        vr = self._head[offset + 4 : offset + 6]
        if vr in _LONG_VRS:
            return tag, self._long.unpack_from(self._head, offset + 8)[0], offset + 12
        if not (vr.isalpha() and vr.isupper()):
            raise NotADataSet("not a value representation")
        return tag, self._short.unpack_from(self._head, offset + 6)[0], offset + 8

    def _end(self, length: int, value: int) -> int:
        """Where the element whose value begins at `value` ends."""
        if length != _UNDEFINED:
            return value + length
        depth, offset = 1, value
        while depth:
            tag, length, value = self._element(offset)
            offset = value
            if tag in _DELIMITERS:
                depth -= 1
            elif length == _UNDEFINED:
                depth += 1
            else:
                offset += length
        return offset
