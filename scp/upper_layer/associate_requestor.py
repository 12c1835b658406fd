"""A-ASSOCIATE-RQ encoded, A-ASSOCIATE-AC and A-ASSOCIATE-RJ decoded: the requestor's half of `associate`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from scp.upper_layer.associate import (
    ABSTRACT,
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NAME,
    CONTEXT_AC,
    CONTEXT_RQ,
    FIXED_LENGTH,
    IMPLEMENTATION_UID,
    IMPLEMENTATION_VERSION,
    MAXIMUM_LENGTH,
    ROLE,
    SMALLEST_MAXIMUM_LENGTH,
    TRANSFER,
    USER_INFORMATION,
    ContextProposal,
    invalid,
    item,
    items,
    sized,
    uid_of,
)
from scp.upper_layer.pdu_stream import A_ASSOCIATE_RQ, HEADER

_SOURCES = {1: "service user", 2: "service provider, ACSE", 3: "service provider, presentation"}


@dataclass(slots=True)
class AssociateAccept:
    """What the peer accepted."""

    maximum_length: int = 0  # of the PDV lists the peer receives; 0 = none
    transfer_syntaxes: dict[int, str] = field(default_factory=dict)  # by the ID of each accepted context


def encode_associate_request(
    calling_ae_title: str,
    called_ae_title: str,
    contexts: Sequence[ContextProposal],
    maximum_length: int,
    *,
    as_scp: bool = False,
) -> bytes:
    """The A-ASSOCIATE-RQ for these contexts, in the default roles, or with the roles exchanged (PS3.7 D.3.3.4)."""
    encoded = [item(APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode())]
    for context in contexts:
        syntaxes = b"".join(item(TRANSFER, syntax.encode()) for syntax in context.transfer_syntaxes)
        names = item(ABSTRACT, context.abstract_syntax.encode()) + syntaxes
        encoded.append(item(CONTEXT_RQ, bytes((context.context_id, 0, 0, 0)) + names))
    user = item(MAXIMUM_LENGTH, struct.pack(">L", maximum_length))
    user += item(IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_UID.encode())
    user += item(IMPLEMENTATION_VERSION, PYNETDICOM_IMPLEMENTATION_VERSION.encode())
    if as_scp:
        for uid in dict.fromkeys(context.abstract_syntax for context in contexts):
            user += item(ROLE, sized(uid.encode()) + b"\0\1")
    encoded.append(item(USER_INFORMATION, user))
    called, calling = called_ae_title.ljust(16).encode("ascii"), calling_ae_title.ljust(16).encode("ascii")
    body = struct.pack(">Hxx16s16s32x", 1, called, calling) + b"".join(encoded)
    return HEADER.pack(A_ASSOCIATE_RQ, len(body)) + body


def decode_associate_accept(body: bytes) -> AssociateAccept:
    """Decode the A-ASSOCIATE-AC after its six bytes of header.

    Raises:
        ProtocolViolation: it is none.
    """
    accept = AssociateAccept()
    try:
        for kind, value in items(body[FIXED_LENGTH:]):
            if kind == CONTEXT_AC and value[2] == 0:
                accept.transfer_syntaxes[value[0]] = next(uid_of(v) for k, v in items(value[4:]) if k == TRANSFER)
            elif kind == USER_INFORMATION:
                for user_kind, user_value in items(value):
                    if user_kind == MAXIMUM_LENGTH:
                        (accept.maximum_length,) = struct.unpack(">L", user_value)
    except (struct.error, ValueError, IndexError, StopIteration):
        raise invalid("a_associate_ac") from None
    if 0 < accept.maximum_length < SMALLEST_MAXIMUM_LENGTH:
        raise invalid("maximum_length")
    return accept


def describe_rejection(body: bytes) -> str:
    """The numbers of an A-ASSOCIATE-RJ, PS3.8 Table 9-21, for a person."""
    result, source, reason = body[1:4]
    kind = "permanently" if result == 1 else "transiently"
    return f"rejected {kind} by the {_SOURCES.get(source, 'peer')}, reason {reason}"
