"""How deep the sequences of an encoded data set go, found without recursion and before anything is decoded."""

from __future__ import annotations

import struct
from typing import Final

from pydicom._dicom_dict import DicomDictionary

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_SEQUENCES: Final = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


class NestingError(ValueError):
    """Nested too deeply, or not nested properly."""


def check_nesting(encoded: bytes, *, implicit: bool, little_endian: bool, maximum: int) -> None:
    """Walk the elements of `encoded`; constant memory but for one number per level.

    Raises:
        NestingError: more than `maximum` levels of sequences.
        struct.error: the data set ends inside an element.
    """
    order = "<" if little_endian else ">"
    tag_format, long_format, short_format = (
        struct.Struct(order + "HH"),
        struct.Struct(order + "L"),
        struct.Struct(order + "H"),
    )
    offset = 0
    ends: list[tuple[int, bool]] = []  # of each open sequence and item: where it ends, and whether below it is implicit
    deepest = 2 * maximum  # a level is a sequence and its item
    while offset < len(encoded):
        while ends and offset >= ends[-1][0]:
            ends.pop()
        group, element = tag_format.unpack_from(encoded, offset)
        tag = group << 16 | element
        offset += 4
        below_implicit = ends[-1][1] if ends else implicit
        if group == 0xFFFE or below_implicit:
            (length,) = long_format.unpack_from(encoded, offset)
            offset += 4
            opens = tag == _ITEM or (group != 0xFFFE and (length == _UNDEFINED or tag in _SEQUENCES))
        else:
            vr = encoded[offset : offset + 2]
            if vr in _LONG_VRS:
                (length,) = long_format.unpack_from(encoded, offset + 4)
                offset += 8
            else:
                (length,) = short_format.unpack_from(encoded, offset + 2)
                offset += 4
            opens = vr == b"SQ" or length == _UNDEFINED
            below_implicit = vr == b"UN"  # PS3.5 6.2.2: a sequence of unknown VR is in Implicit VR
        if tag in (_ITEM_END, _SEQUENCE_END):
            if ends:
                ends.pop()
        elif opens:
            ends.append((len(encoded) + 1 if length == _UNDEFINED else offset + length, below_implicit))
            if len(ends) > deepest:
                raise NestingError(f"more than {maximum} levels")
        else:
            offset += length
    if offset > len(encoded) or any(end > len(encoded) for end, _ in ends):
        raise struct.error("the data set ends inside an element")
