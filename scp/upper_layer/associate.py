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

# bytes of a PDV list. The Standard has no minimum (PS3.8 D.1). In PDUs of 16 bytes a C-GET costs many times the CPU
# that it does in those of 4096, the smallest that DCMTK announces; from 128 on two or three times as much at most
SMALLEST_MAXIMUM_LENGTH: Final = 128
APPLICATION_CONTEXT_NAME: Final = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
MAXIMUM_CONTEXTS: Final = 128  # odd IDs from 1 to 255
_MAXIMUM_SYNTAXES: Final = 100  # of one context; PS3.6 knows some fifty
FIXED_LENGTH: Final = 68  # bytes before the variable items

# Item types, PS3.8 9.3.2 and PS3.7 Annex D.3
APPLICATION_CONTEXT: Final = 0x10
CONTEXT_RQ: Final = 0x20
CONTEXT_AC: Final = 0x21
ABSTRACT: Final = 0x30
TRANSFER: Final = 0x40
USER_INFORMATION: Final = 0x50
MAXIMUM_LENGTH: Final = 0x51
IMPLEMENTATION_UID: Final = 0x52
ROLE: Final = 0x54
IMPLEMENTATION_VERSION: Final = 0x55
EXTENDED: Final = 0x56
USER_IDENTITY: Final = 0x58
USER_IDENTITY_AC: Final = 0x59


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
    reserved: bytes  # AE titles and what follows them as received, to be sent back (PS3.8 Table 9-17)
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
        raise invalid("a_associate_rq") from None


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
    user = item(MAXIMUM_LENGTH, struct.pack(">L", maximum_length))
    user += item(IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_UID.encode())
    for uid, (scu, scp) in roles.items():
        user += item(ROLE, sized(uid.encode()) + bytes((scu, scp)))
    user += item(IMPLEMENTATION_VERSION, PYNETDICOM_IMPLEMENTATION_VERSION.encode())
    for uid, information in extended.items():
        user += item(EXTENDED, sized(uid.encode()) + information)
    if identity_response is not None:
        user += item(USER_IDENTITY_AC, sized(identity_response))
    encoded = [item(APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode())]
    for result in results:
        syntax = item(TRANSFER, result.transfer_syntax.encode())
        encoded.append(item(CONTEXT_AC, bytes((result.context_id, 0, result.result, 0)) + syntax))
    encoded.append(item(USER_INFORMATION, user))
    body = struct.pack(">Hxx64s", 1, request.reserved) + b"".join(encoded)
    return HEADER.pack(A_ASSOCIATE_AC, len(body)) + body


def _decode(body: bytes, maximum_user_items: int) -> AssociateRequest:
    if len(body) < FIXED_LENGTH:
        raise invalid("a_associate_rq")
    version, called, calling = struct.unpack_from(">Hxx16s16s", body)
    request = AssociateRequest(version, _ae_title(called), _ae_title(calling), body[4:FIXED_LENGTH])
    for kind, value in items(body[FIXED_LENGTH:]):
        if kind == CONTEXT_RQ:
            if len(request.contexts) == MAXIMUM_CONTEXTS:
                raise invalid("presentation_contexts")
            request.contexts.append(_context(value))
        elif kind == APPLICATION_CONTEXT:
            request.application_context = uid_of(value)
        elif kind == USER_INFORMATION:
            _decode_user_items(value, request, maximum_user_items)
    identifiers = {context.context_id for context in request.contexts}
    if len(identifiers) != len(request.contexts) or not all(identifier % 2 for identifier in identifiers):
        raise invalid("presentation_context_id")  # PS3.8 9.3.2.2: odd, and each once
    return request


def _decode_user_items(encoded: bytes, request: AssociateRequest, maximum: int) -> None:
    for count, (kind, value) in enumerate(items(encoded), start=1):
        if count > maximum:
            raise invalid("user_items")
        if kind == MAXIMUM_LENGTH:
            (request.maximum_length,) = struct.unpack(">L", value)
        elif kind == IMPLEMENTATION_VERSION:
            request.implementation_version = value.decode("ascii", "replace").strip()
        elif kind == ROLE:
            uid, rest = _take(value)
            request.roles[uid_of(uid)] = (rest[0] == 1, rest[1] == 1)
        elif kind == EXTENDED:
            uid, rest = _take(value)
            request.extended[uid_of(uid)] = rest
        elif kind == USER_IDENTITY:
            primary, rest = _take(value[2:])
            request.user_identity = UserIdentity(value[0], value[1] == 1, primary, _take(rest)[0])


def _context(value: bytes) -> ContextProposal:
    abstract, syntaxes = "", []
    for kind, name in items(value[4:]):
        if kind == ABSTRACT:
            abstract = uid_of(name)
        elif kind == TRANSFER:
            syntaxes.append(uid_of(name))
    if not abstract or not 1 <= len(syntaxes) <= _MAXIMUM_SYNTAXES:
        raise invalid("presentation_context")
    return ContextProposal(value[0], abstract, tuple(syntaxes))


def items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values of the items of a list.

    Raises:
        ProtocolViolation: an item goes beyond the list's end.
        struct.error: the list ends inside an item's header.
    """
    offset = 0
    while offset < len(encoded):
        kind, length = struct.unpack_from(">BxH", encoded, offset)
        offset += 4 + length
        if offset > len(encoded):
            raise invalid("item_length")
        yield kind, encoded[offset - length : offset]


def item(kind: int, value: bytes) -> bytes:
    """One encoded item."""
    return struct.pack(">BxH", kind, len(value)) + value


def _take(value: bytes) -> tuple[bytes, bytes]:
    """A field with its 16-bit length in front, and what follows it."""
    (length,) = struct.unpack_from(">H", value)
    if length + 2 > len(value):
        raise invalid("item_length")
    return value[2 : 2 + length], value[2 + length :]


def sized(value: bytes) -> bytes:
    """A field with its 16-bit length in front."""
    return struct.pack(">H", len(value)) + value


def uid_of(value: bytes) -> str:
    """An encoded UID as text, of at most 64 characters (PS3.8 Annex F)."""
    text = value.decode("ascii").rstrip("\0 ")  # some peers pad, though PS3.8 Annex F forbids it
    if len(text) > 64 or not text.isprintable():
        raise invalid("uid")
    return text


def _ae_title(value: bytes) -> str:
    """PS3.8 Table 9-11: leading and trailing spaces are not significant. Others than the default repertoire: empty."""
    text = value.rstrip(b"\0").decode("latin-1").strip(" ")
    return text if all(" " <= character <= "~" and character != "\\" for character in text) else ""


def invalid(text: str) -> ProtocolViolation:
    """The peer's PDU breaks the rule named `text`."""
    return ProtocolViolation(text, AbortReason.INVALID_PDU_PARAMETER_VALUE)
