"""A-ASSOCIATE-RQ decoded, A-ASSOCIATE-AC encoded (PS3.8 9.3.2 and 9.3.3, PS3.7 Annex D).

pynetdicom's decoder needs 7 ms for 120 contexts and answers hostile bytes with any of six exceptions; this one raises
`ProtocolViolation` only, counts before it keeps, and leaves out items it does not know, as PS3.8 9.3.1 asks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from scp.upper_layer.errors import AbortReason, ProtocolViolation
from scp.upper_layer.pdu_stream import A_ASSOCIATE_AC, HEADER

APPLICATION_CONTEXT_NAME: Final = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
MAXIMUM_CONTEXTS: Final = 128  # odd IDs from 1 to 255
_FIXED: Final = 68  # bytes before the variable items

_APPLICATION_CONTEXT, _CONTEXT_RQ, _CONTEXT_AC, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x20, 0x21, 0x30, 0x40, 0x50
_MAXIMUM_LENGTH, _IMPLEMENTATION_UID, _ROLE, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x54, 0x55
_EXTENDED, _USER_IDENTITY, _USER_IDENTITY_AC = 0x56, 0x58, 0x59


@dataclass(frozen=True, slots=True)
class ContextProposal:
    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """PS3.7 D.3.3.7.1: type 1 = user name, 2 = with passcode, 3 = Kerberos, 4 = SAML, 5 = JSON web token."""

    kind: int
    response_requested: bool
    primary: bytes = field(repr=False)
    secondary: bytes = field(repr=False)


@dataclass(slots=True)
class AssociateRequest:
    """What the peer proposes; AE titles are without padding, possibly empty."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    reserved: bytes  # called and calling AE title as received, to be sent back (PS3.8 Table 9-17)
    application_context: str = ""
    contexts: list[ContextProposal] = field(default_factory=list)
    maximum_length: int = 0  # of the PDV lists the peer receives; 0 = none
    implementation_version: str = ""
    roles: dict[str, tuple[bool, bool]] = field(default_factory=dict)  # SOP class: (SCU, SCP) of the requestor
    extended: dict[str, bytes] = field(default_factory=dict)  # SOP class: application information
    user_identity: UserIdentity | None = None


@dataclass(frozen=True, slots=True)
class ContextResult:
    """PS3.8 Table 9-18: 0 accepted, 1 user rejection, 3 abstract syntax, 4 transfer syntaxes not supported."""

    context_id: int
    result: int
    transfer_syntax: str


def decode_associate_request(body: bytes, maximum_user_items: int) -> AssociateRequest:
    """Decode the PDU after its six bytes of header.

    Raises:
        ProtocolViolation: not an A-ASSOCIATE-RQ, or more items than are allowed.
    """
    try:
        return _decode(body, maximum_user_items)
    except (struct.error, ValueError, IndexError):
        raise _invalid("a_associate_rq") from None


def encode_associate_accept(
    request: AssociateRequest,
    results: Sequence[ContextResult],
    *,
    maximum_length: int,
    roles: Mapping[str, tuple[bool, bool]],
    extended: Mapping[str, bytes],
    identity_response: bytes | None,
) -> bytes:
    """The A-ASSOCIATE-AC that answers `request`."""
    user = _item(_MAXIMUM_LENGTH, struct.pack(">L", maximum_length))
    user += _item(_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_UID.encode())
    for uid, (scu, scp) in roles.items():
        user += _item(_ROLE, _sized(uid.encode()) + bytes((scu, scp)))
    user += _item(_IMPLEMENTATION_VERSION, PYNETDICOM_IMPLEMENTATION_VERSION.encode())
    for uid, information in extended.items():
        user += _item(_EXTENDED, _sized(uid.encode()) + information)
    if identity_response is not None:
        user += _item(_USER_IDENTITY_AC, _sized(identity_response))
    items = [_item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode())]
    for result in results:
        syntax = _item(_TRANSFER, result.transfer_syntax.encode())
        items.append(_item(_CONTEXT_AC, bytes((result.context_id, 0, result.result, 0)) + syntax))
    items.append(_item(_USER, user))
    body = struct.pack(">Hxx32s32x", 1, request.reserved) + b"".join(items)
    return HEADER.pack(A_ASSOCIATE_AC, len(body)) + body


def _decode(body: bytes, maximum_user_items: int) -> AssociateRequest:
    if len(body) < _FIXED:
        raise _invalid("a_associate_rq")
    version, called, calling = struct.unpack_from(">Hxx16s16s", body)
    request = AssociateRequest(version, _ae_title(called), _ae_title(calling), called + calling)
    for kind, value in _items(body[_FIXED:]):
        if kind == _CONTEXT_RQ:
            if len(request.contexts) == MAXIMUM_CONTEXTS:
                raise _invalid("presentation_contexts")
            request.contexts.append(_context(value))
        elif kind == _APPLICATION_CONTEXT:
            request.application_context = _uid(value)
        elif kind == _USER:
            _decode_user_items(value, request, maximum_user_items)
    identifiers = {context.context_id for context in request.contexts}
    if len(identifiers) != len(request.contexts) or not all(identifier % 2 for identifier in identifiers):
        raise _invalid("presentation_context_id")  # PS3.8 9.3.2.2: odd, and each once
    return request


def _decode_user_items(encoded: bytes, request: AssociateRequest, maximum: int) -> None:
    for count, (kind, value) in enumerate(_items(encoded), start=1):
        if count > maximum:
            raise _invalid("user_items")
        if kind == _MAXIMUM_LENGTH:
            (request.maximum_length,) = struct.unpack(">L", value)
            if 0 < request.maximum_length < 16:  # no room for a PDV with a value
                raise _invalid("maximum_length")
        elif kind == _IMPLEMENTATION_VERSION:
            request.implementation_version = value.decode("ascii", "replace").strip()
        elif kind == _ROLE:
            uid, rest = _take(value)
            request.roles[_uid(uid)] = (rest[0] == 1, rest[1] == 1)
        elif kind == _EXTENDED:
            uid, rest = _take(value)
            request.extended[_uid(uid)] = rest
        elif kind == _USER_IDENTITY:
            primary, rest = _take(value[2:])
            request.user_identity = UserIdentity(value[0], value[1] == 1, primary, _take(rest)[0])


def _context(value: bytes) -> ContextProposal:
    abstract, syntaxes = "", []
    for kind, name in _items(value[4:]):
        if kind == _ABSTRACT:
            abstract = _uid(name)
        elif kind == _TRANSFER:
            syntaxes.append(_uid(name))
    if not abstract or not syntaxes:
        raise _invalid("presentation_context")
    return ContextProposal(value[0], abstract, tuple(syntaxes))


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(encoded):
        kind, length = struct.unpack_from(">BxH", encoded, offset)
        offset += 4 + length
        if offset > len(encoded):
            raise _invalid("item_length")
        yield kind, encoded[offset - length : offset]


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _take(value: bytes) -> tuple[bytes, bytes]:
    """A field with its 16-bit length in front, and what follows it."""
    (length,) = struct.unpack_from(">H", value)
    if length + 2 > len(value):
        raise _invalid("item_length")
    return value[2 : 2 + length], value[2 + length :]


def _sized(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _uid(value: bytes) -> str:
    text = value.decode("ascii").rstrip("\0 ")  # some peers pad, though PS3.8 Annex F forbids it
    if len(text) > 64 or not text.isprintable():
        raise _invalid("uid")
    return text


def _ae_title(value: bytes) -> str:
    """PS3.8 Table 9-11: leading and trailing spaces are not significant. Others than the default repertoire: empty."""
    text = value.rstrip(b"\0").decode("latin-1").strip(" ")
    return text if all(" " <= character <= "~" and character != "\\" for character in text) else ""


def _invalid(text: str) -> ProtocolViolation:
    return ProtocolViolation(text, AbortReason.INVALID_PDU_PARAMETER_VALUE)
