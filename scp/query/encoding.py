"""Answers of plain text, encoded directly: pydicom's writer takes longer than finding and matching them.

Whatever is not plain, that is sequences, numbers in binary, other characters than ASCII and other syntaxes than the two
usual ones, is left to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import MutableSequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scp.matching.candidate import TEXT_VRS

_LONG_VRS: Final = frozenset({"UC", "UR", "UT"})  # PS3.5 7.1.2: 32 bits of length in explicit VR
_IMPLICIT: Final = struct.Struct("<HHL")
_EXPLICIT: Final = struct.Struct("<HH2sH")
_LONGEST: Final = 0xFFFE  # bytes of a value in explicit VR


def encode_plain(dataset: Dataset, transfer_syntax: str) -> bytes | None:
    """The encoded data set; None if it is not plain."""
    if transfer_syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    is_implicit = transfer_syntax == ImplicitVRLittleEndian
    parts = []
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag)
        vr, value = element.VR, element.value
        if vr not in TEXT_VRS or (vr in _LONG_VRS and not is_implicit):
            return None
        text = _text(value)
        if not text.isascii() or len(text) > _LONGEST:
            return None
        if len(text) % 2:
            text += "\0" if vr == "UI" else " "
        if is_implicit:
            parts.append(_IMPLICIT.pack(tag >> 16, tag & 0xFFFF, len(text)))
        else:
            parts.append(_EXPLICIT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(text)))
        parts.append(text.encode())
    return b"".join(parts)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, MutableSequence):
        return "\\".join(map(str, value))
    return str(value)
