"""How deep the sequences of an encoded data set go, found without recursion and before anything is decoded."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from itertools import repeat
from mmap import mmap
from typing import Any, Final, TypeAlias

from pydicom._dicom_dict import DicomDictionary

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_FRAGMENTED: Final = (b"OB", b"OW")
_SEQUENCES: Final = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


Buffer: TypeAlias = bytes | mmap


class NestingError(ValueError):
    """Nested too deeply, or not nested properly."""


class TooManyElements(ValueError):
    """More than may be decoded: each becomes an object, and an item one of a kilobyte."""


def check_nesting(
    encoded: Buffer, *, implicit: bool, little_endian: bool, maximum: int, maximum_elements: int = sys.maxsize
) -> None:
    """Walk the elements of `encoded`; constant memory but for one number per level. Values are stepped over:
    200 elements take 0.04 ms, pixels nothing.

    Raises:
        NestingError: more than `maximum` levels of sequences.
        TooManyElements: more than `maximum_elements`, items and their ends included.
        struct.error: the data set ends inside an element.
    """
    order = "<" if little_endian else ">"
    unpack_short = struct.Struct(order + "HH2sH").unpack_from
    unpack_long = struct.Struct(order + "L").unpack_from
    size = len(encoded)
    offset = 0
    ends: list[tuple[int, bool]] = []  # of each open sequence and item: where it ends, and whether below it is implicit
    deepest = 2 * maximum  # a level is a sequence and its item
    for _ in repeat(None, maximum_elements):
        if offset >= size:
            break
        while ends and offset >= ends[-1][0]:
            ends.pop()
        group, element, vr, length = unpack_short(encoded, offset)
        below_implicit = ends[-1][1] if ends else implicit
        if group == 0xFFFE or below_implicit:
            tag = group << 16 | element
            (length,) = unpack_long(encoded, offset + 4)
            offset += 8
            if tag in (_ITEM_END, _SEQUENCE_END):
                del ends[-1:]
                continue
            opens = tag == _ITEM or (group != 0xFFFE and (length == _UNDEFINED or tag in _SEQUENCES))
        elif vr not in _LONG_VRS:
            offset += 8 + length
            continue
        else:
            (length,) = unpack_long(encoded, offset + 8)
            offset += 12
            if length == _UNDEFINED and vr in _FRAGMENTED:
                offset = _after_fragments(encoded, offset, unpack_short, unpack_long)
                continue
            opens = vr == b"SQ" or length == _UNDEFINED
            below_implicit = vr == b"UN"  # PS3.5 6.2.2: a sequence of unknown VR is in Implicit VR
        if opens:
            ends.append((size + 1 if length == _UNDEFINED else offset + length, below_implicit))
            if len(ends) > deepest:
                raise NestingError(f"more than {maximum} levels")
        else:
            offset += length
    _check_end(offset, size, ends)


def _check_end(offset: int, size: int, ends: list[tuple[int, bool]]) -> None:
    """Whether the walk has come to the end of the data set, and to that of all that it holds."""
    if offset < size:
        raise TooManyElements
    if offset > size or any(end > size for end, _ in ends):
        raise struct.error("the data set ends inside an element")


def _after_fragments(
    encoded: Buffer, offset: int, unpack_short: Callable[..., Any], unpack_long: Callable[..., Any]
) -> int:
    """Where encapsulated pixel data ends, whose fragments begin at `offset` (PS3.5 A.4)."""
    while True:
        group, element, _, _ = unpack_short(encoded, offset)
        (length,) = unpack_long(encoded, offset + 4)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return offset + 8
        if tag != _ITEM or length == _UNDEFINED:
            raise struct.error("encapsulated pixel data with something else than fragments")
        offset += 8 + length
