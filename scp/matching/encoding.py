"""Answers encoded straight from what was selected: pydicom's writer takes twenty times as long.

What is usual is written here: little endian, no private attributes, a character set without code extensions. The rest
is left to pydicom. The values are those that `scp.matching.answer` would hand to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from pydicom.charset import convert_encodings
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scp.matching.candidate import (
    CHARACTER_SET_VRS,
    DEFINITE_VRS,
    NUMBER_FORMATS,
    SPECIFIC_CHARACTER_SET,
    Attribute,
    Candidate,
    kind_of,
)

UTF_8: Final = "ISO_IR 192"
_LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_CODE_EXTENSIONS: Final = frozenset({"ISO_IR 13"})  # JIS X 0201 is written by escape sequences in Python's codec
_LONGEST: Final = 0xFFFE  # bytes of a value whose length has 16 bits
_REMEMBERED: Final = 64  # characters of a value
_SHORT_HEADER: Final = struct.Struct("<HH2sH")
_LONG_HEADER: Final = struct.Struct("<HH2sxxL")
_IMPLICIT_HEADER: Final = struct.Struct("<HHL")
_ITEM: Final = struct.Struct("<HHL")


class _Unusual(Exception):
    """pydicom knows better."""


def encode_candidate(candidate: Candidate, terms: tuple[str, ...], transfer_syntax: str) -> bytes | None:
    """The encoded data set in the character set `terms` of SpecificCharacterSet (none: ASCII, which needs no name), or
    in ISO_IR 192 if that lacks a character; None if anything in it is unusual.
    """
    if transfer_syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    header = _implicit if transfer_syntax == ImplicitVRLittleEndian else _explicit
    try:
        codec = _codec(terms)
        for named, used in ((terms, codec), ((UTF_8,), "utf_8")):
            character_set = {SPECIFIC_CHARACTER_SET: Attribute("CS", named)} if named else {}
            with suppress(UnicodeEncodeError):
                return _data_set({**candidate.attributes, **character_set}, used, header)
    except (_Unusual, struct.error):
        pass
    return None


@lru_cache(maxsize=32)
def _codec(terms: tuple[str, ...]) -> str:
    if not terms:
        return "ascii"
    if len(terms) > 1 or terms[0] in _CODE_EXTENSIONS:
        raise _Unusual
    (codec,) = convert_encodings(list(terms))
    return codec


Header = Callable[[int, str, int], bytes]  # of tag, VR and length


def _data_set(attributes: dict[Any, Attribute], codec: str, header: Header) -> bytes:
    """Raises: TypeError is turned into `_Unusual`: a private attribute, whose name is no tag."""
    parts = []
    try:
        names = sorted(attributes)
    except TypeError:
        raise _Unusual from None
    for tag in names:
        attribute = attributes[tag]
        if attribute.vr == "SQ":
            items = b"".join(_item(item, codec, header) for item in attribute.values)
            parts.append(header(tag, "SQ", len(items)) + items)
        else:
            encode = _element if sum(map(_length, attribute.values)) <= _REMEMBERED else _element.__wrapped__
            parts.append(encode(tag, attribute, codec, header))
    return b"".join(parts)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 8


def _item(item: Candidate, codec: str, header: Header) -> bytes:
    content = _data_set(dict(item.attributes), codec, header)
    return _ITEM.pack(0xFFFE, 0xE000, len(content)) + content


@lru_cache(maxsize=16384)
def _element(tag: int, attribute: Attribute, codec: str, header: Header) -> bytes:
    """Most elements of a worklist repeat, and all of an entry that is asked for every minute."""
    if not isinstance(tag, int):
        raise _Unusual
    vr = DEFINITE_VRS.get(attribute.vr, attribute.vr)
    value = _value(vr, attribute.values, codec)
    return header(tag, vr, len(value)) + value


def _value(vr: str, values: tuple[Any, ...], codec: str) -> bytes:
    kind = kind_of(vr)
    if kind == "text":
        if vr == "PN":  # PS3.5 6.2.1.1: trailing empty groups say nothing
            values = tuple(value.rstrip("=") for value in values)
        value = "\\".join(values).encode(codec if vr in CHARACTER_SET_VRS else "ascii")
        padding = b"\0" if vr == "UI" else b" "
    elif kind == "number":
        if vr == "AT":
            return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in values)
        return struct.pack(f"<{len(values)}{NUMBER_FORMATS[vr]}", *values)
    else:
        value, padding = b"".join(values), b"\0"
    return value + padding if len(value) % 2 else value


def _explicit(tag: int, vr: str, length: int) -> bytes:
    if vr in _LONG_VRS:
        return _LONG_HEADER.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)
    if length > _LONGEST:
        raise _Unusual
    return _SHORT_HEADER.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)


def _implicit(tag: int, _vr: str, length: int) -> bytes:
    return _IMPLICIT_HEADER.pack(tag >> 16, tag & 0xFFFF, length)
