"""Candidates read straight from encoded data sets: worklists have thousands, and pydicom takes ten times as long.

Read is what is usual: little endian, uncompressed, no private attributes, nothing damaged. For anything else pydicom
decides, so that a data set means the same whichever way it is read.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scp.matching.candidate import (
    DEFINITE_VRS,
    MAXIMUM_DEPTH,
    NO_PRIVATE_VRS,
    SPECIFIC_CHARACTER_SET,
    TEXT_VRS,
    TIMEZONE_OFFSET_FROM_UTC,
    Attribute,
    AttributeName,
    Candidate,
    PrivateVrs,
    decoded_numbers,
    decoded_texts,
    dictionary_vr,
    kind_of,
    parse_timezone_offset,
    python_encodings,
)
from scp.upper_layer.identifier import decode_identifier
from scp.upper_layer.limits import Limits

_LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT_VRS: Final = (TEXT_VRS | {"AT", "FL", "FD", "SL", "SS", "UL", "US"}) - _LONG_VRS  # PS3.5 Table 7.1-2
_REMEMBERED: Final = 128  # bytes of a value
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xE000FFFE  # as read below: the element's number first
_ITEM_END: Final = 0xE00D  # the element's number alone
_SEQUENCE_END: Final = 0xE0DDFFFE
_TAG: Final = struct.Struct("<HH")
_LENGTH: Final = struct.Struct("<L")
_ITEM_HEADER: Final = struct.Struct("<LL")

Elements: TypeAlias = "list[tuple[int, str, bytes | list[Elements]]]"  # tag, VR, value or items


class _Unusual(Exception):
    """pydicom knows better."""


def read_candidate(
    encoded: bytes,
    transfer_syntax: UID,
    limits: Limits,
    default_encoding: str,
    private_vrs: PrivateVrs = NO_PRIVATE_VRS,
) -> Candidate:
    """What `Candidate.of` makes of the data set, but for private attributes and damaged ones in a tenth of its time.

    Raises:
        scp.statuses.Refusal: see `decode_identifier`.
        scp.matching.candidate.Undecodable: a sequence is damaged or nested too deeply.
    """
    if transfer_syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        try:
            reader = _Reader(encoded, implicit=transfer_syntax == ImplicitVRLittleEndian)
            elements, _ = reader.elements(0, len(encoded), MAXIMUM_DEPTH)
            return _decoded(elements, (default_encoding,), None)
        except (_Unusual, struct.error, IndexError, UnicodeDecodeError):
            pass  # it is read once more, and refused by the words that all others are refused by
    dataset = decode_identifier(io.BytesIO(encoded), transfer_syntax, limits)
    return Candidate.of(dataset, default_encoding, private_vrs)


class _Reader:
    """Finds the elements of one data set; every step moves forward."""

    def __init__(self, encoded: bytes, *, implicit: bool) -> None:
        self._encoded = encoded
        self._header = self._implicit_header if implicit else self._explicit_header

    def elements(self, offset: int, end: int, depth: int) -> tuple[Elements, int]:
        """The elements up to `end`, or up to the end of an item of undefined length, and where what follows begins."""
        if not depth:
            raise _Unusual
        encoded, header = self._encoded, self._header
        found: Elements = []
        while offset < end:
            group, element = _TAG.unpack_from(encoded, offset)
            if group & 1:
                raise _Unusual
            if group == 0xFFFE:
                if element != _ITEM_END or end != _UNDEFINED:
                    raise _Unusual
                return found, offset + 8
            tag = group << 16 | element
            vr, length, offset = header(tag, offset)
            if vr == "SQ":
                items, offset = self._items(offset, length, end, depth)
                found.append((tag, vr, items))
                if offset > end:
                    raise _Unusual
                continue
            value_end = offset + length
            if value_end > end:  # also: of undefined length
                raise _Unusual
            found.append((tag, vr, encoded[offset:value_end]))
            offset = value_end
        if end == _UNDEFINED:
            raise _Unusual
        return found, offset

    def _items(self, offset: int, length: int, outer_end: int, depth: int) -> tuple[list[Elements], int]:
        end = offset + length if length != _UNDEFINED else _UNDEFINED
        if length != _UNDEFINED and end > min(outer_end, len(self._encoded)):
            raise _Unusual
        items = []
        while offset < end:
            tag, length = _ITEM_HEADER.unpack_from(self._encoded, offset)
            offset += 8
            if tag == _SEQUENCE_END and end == _UNDEFINED:
                break
            if tag != _ITEM or (length != _UNDEFINED and offset + length > min(end, len(self._encoded))):
                raise _Unusual
            item, offset = self.elements(offset, offset + length if length != _UNDEFINED else _UNDEFINED, depth - 1)
            items.append(item)
            if offset > end:
                raise _Unusual
        return items, offset

    def _explicit_header(self, tag: int, offset: int) -> tuple[str, int, int]:
        encoded = self._encoded
        given = encoded[offset + 4 : offset + 6].decode("ascii")
        if given == "UN":
            raise _Unusual  # what is in it is encoded in another way (PS3.5 6.2.2)
        if given in _SHORT_VRS:
            return _vr(tag, given), encoded[offset + 6] | encoded[offset + 7] << 8, offset + 8
        if given not in _LONG_VRS:
            raise _Unusual
        (length,) = _LENGTH.unpack_from(encoded, offset + 8)
        return _vr(tag, given), length, offset + 12

    def _implicit_header(self, tag: int, offset: int) -> tuple[str, int, int]:
        encoded = self._encoded
        if encoded[offset + 4 : offset + 6].isalpha():
            raise _Unusual  # a length of 16 KB and more, or, as pydicom would find, it is explicit after all
        (length,) = _LENGTH.unpack_from(encoded, offset + 4)
        return _vr(tag, "UN"), length, offset + 8


@lru_cache(maxsize=16384)
def _vr(tag: int, given: str) -> str:
    """As `Candidate` decides: the Standard's where it has one."""
    vr = dictionary_vr(tag)
    if not vr or vr == given or (" or " in vr and given != "UN"):
        vr = given
    if (vr == "SQ") != (given == "SQ") and given != "UN":
        raise _Unusual  # its value is not what its tag says
    return DEFINITE_VRS.get(vr, vr)


def _decoded(elements: Elements, encodings: tuple[str, ...], timezone_offset: int | None) -> Candidate:
    for tag, _, value in elements:
        if tag == SPECIFIC_CHARACTER_SET and isinstance(value, bytes):
            if b"\0" in value.rstrip(b"\0 "):
                raise _Unusual
            terms = decoded_texts(value, "CS", ("latin_1",))
            encodings = python_encodings(terms) if terms else encodings  # PS3.5 7.5.3
        elif tag == TIMEZONE_OFFSET_FROM_UTC and isinstance(value, bytes):
            offset = decoded_texts(value, "CS", ("latin_1",))
            timezone_offset = parse_timezone_offset(offset[0]) if offset else timezone_offset
        elif tag > TIMEZONE_OFFSET_FROM_UTC:
            break
    return Candidate(dict(_attributes(elements, encodings, timezone_offset)), timezone_offset)


def _attributes(
    elements: Elements, encodings: tuple[str, ...], timezone_offset: int | None
) -> Iterator[tuple[AttributeName, Attribute]]:
    previous = 0
    for tag, vr, value in elements:
        if tag <= previous:
            raise _Unusual  # out of order: what was looked for above may come later
        previous = tag
        if tag < 0x00080000 or not tag & 0xFFFF or tag == SPECIFIC_CHARACTER_SET:
            continue
        if isinstance(value, list):
            yield tag, Attribute(vr, tuple(_decoded(item, encodings, timezone_offset) for item in value))
        else:
            decode = _attribute if len(value) <= _REMEMBERED else _attribute.__wrapped__
            yield tag, decode(vr, value, encodings)


@lru_cache(maxsize=16384)
def _attribute(vr: str, value: bytes, encodings: tuple[str, ...]) -> Attribute:
    """Most attributes of a worklist repeat, and all of an entry that is read again after a change elsewhere."""
    kind = kind_of(vr)
    if kind == "text":
        return Attribute(vr, decoded_texts(value, vr, encodings))
    if kind == "number":
        return Attribute(vr, decoded_numbers(value, vr, "<"))
    return Attribute(vr, (value,) if value else ())
