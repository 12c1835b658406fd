"""Command sets: group 0000 in Implicit VR Little Endian, both ways (PS3.7 6.3.1 and Annex E).

pydicom could do it, at 0.3 ms a request and through code made for files; these few elements need neither.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_dict
from pynetdicom import dimse_primitives

from scp.statuses import MEDIUM
from scp.upper_layer.errors import AbortReason, ProtocolViolation

NO_DATA_SET: Final = 0x0101  # CommandDataSetType, PS3.7 E.1
RESPONSE: Final = 0x8000  # the bit of CommandField that makes a request's code a response's
C_CANCEL_RQ: Final = 0x0FFF

PRIMITIVES: Final[dict[int, type[Any]]] = {  # CommandField of the request, PS3.7 Table E.1-1
    0x0001: dimse_primitives.C_STORE,
    0x0010: dimse_primitives.C_GET,
    0x0020: dimse_primitives.C_FIND,
    0x0021: dimse_primitives.C_MOVE,
    0x0030: dimse_primitives.C_ECHO,
    0x0100: dimse_primitives.N_EVENT_REPORT,
    0x0110: dimse_primitives.N_GET,
    0x0120: dimse_primitives.N_SET,
    0x0130: dimse_primitives.N_ACTION,
    0x0140: dimse_primitives.N_CREATE,
    0x0150: dimse_primitives.N_DELETE,
}

CommandSet = dict[str, Any]  # keyword: int, str, or a list of tags

_ELEMENT: Final = struct.Struct("<HHL")  # group, element, length
_KEYWORDS: Final = {
    tag: (entry[4], entry[0]) for tag, entry in DicomDictionary.items() if tag < 0x10000 and entry[3] != "Retired"
}
_TAGS: Final = {keyword: keyword_dict[keyword] for keyword, _ in _KEYWORDS.values()}


def decode_command_set(encoded: bytes) -> CommandSet:
    """The elements we know, by keyword; empty ones and others are left out.

    Raises:
        ProtocolViolation: not a command set.
    """
    command: CommandSet = {}
    offset = 0
    try:
        while offset < len(encoded):
            group, element, length = _ELEMENT.unpack_from(encoded, offset)
            offset += _ELEMENT.size
            if group or offset + length > len(encoded):
                raise ProtocolViolation("command_set", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            keyword, vr = _KEYWORDS.get(element, ("", ""))
            if keyword and length:
                command[keyword] = _DECODERS[vr](encoded[offset : offset + length])
            offset += length
    except (struct.error, ValueError):
        raise ProtocolViolation("command_set", AbortReason.INVALID_PDU_PARAMETER_VALUE) from None
    return command


def encode_command_set(command: Mapping[str, Any]) -> bytes:
    """The encoded command set with its group length; values that are None are left out."""
    body = b"".join(
        _element(_TAGS[keyword], value)
        for keyword, value in sorted(command.items(), key=lambda item: _TAGS[item[0]])
        if value is not None
    )
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def to_primitive(command: CommandSet) -> Any:
    """The pynetdicom primitive of a request, without its data set; a value it refuses stays None.

    Raises:
        KeyError: CommandField is not a request's.
    """
    primitive = PRIMITIVES[command["CommandField"]]()
    if hasattr(primitive, "Priority"):
        primitive.Priority = MEDIUM  # PS3.7 E.1; pynetdicom would have LOW
    for keyword, value in command.items():
        if hasattr(primitive, keyword):
            with contextlib.suppress(ValueError, TypeError):
                setattr(primitive, keyword, value)
    return primitive


def _text(value: bytes) -> str:
    return value.decode("ascii").strip(" \0")


def _uid(value: bytes) -> str:
    """PS3.5 9: at most 64 characters; whether it is digits and dots is for the service to judge."""
    text = _text(value)
    if len(text) > 64 or not text.isprintable():
        raise ValueError("not a UID")
    return text


def _tags(value: bytes) -> list[int]:
    return [group << 16 | element for group, element in struct.iter_unpack("<HH", value)]


_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "UI": _uid,
    "AE": _text,
    "LO": lambda value: value.decode("latin_1").strip(" \0"),  # Error Comment: some write it in their language
    "AT": _tags,
    "US": lambda value: struct.unpack_from("<H", value)[0],  # more values than one: the first, as pynetdicom does
    "UL": lambda value: struct.unpack_from("<L", value)[0],
}


def _element(tag: int, value: Any) -> bytes:
    vr = _KEYWORDS[tag][1]
    if vr == "US":
        encoded = struct.pack("<H", value)
    elif vr == "UL":
        encoded = struct.pack("<L", value)
    elif vr == "AT":
        encoded = b"".join(struct.pack("<HH", item >> 16, item & 0xFFFF) for item in value)
    else:
        encoded = str(value).encode("ascii", "replace")
        if len(encoded) % 2:
            encoded += b"\0" if vr == "UI" else b" "  # PS3.5 6.2
    return _ELEMENT.pack(0, tag, len(encoded)) + encoded
