"""A connection we open to a peer, and the negotiation of an association on it."""

from __future__ import annotations

import functools
import socket
from typing import Final

from config.settings import TlsSettings
from scp.tls import TlsContext
from scp.upper_layer.associate_requestor import AssociateAccept, decode_associate_accept, describe_rejection
from scp.upper_layer.errors import AssociationEnded
from scp.upper_layer.pdu_stream import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, PduStream
from scp.upper_layer.transport import remaining

_LONGEST_ANSWER: Final = 65536  # bytes of an A-ASSOCIATE-AC: 128 contexts need 10 000


class AssociationRefused(Exception):
    """The peer could not be reached or did not accept: a retry may help; the text says which of the two."""


def connect(host: str, port: int, tls: TlsSettings | None, deadline: float | None) -> socket.socket:
    """Connect, and over TLS if `tls` says how; all of it until `deadline` (monotonic).

    Raises:
        AssociationRefused: the peer cannot be reached, or TLS failed.
    """
    try:
        sock = socket.create_connection((host, port), remaining(deadline))
    except OSError as error:
        raise AssociationRefused(f"cannot connect: {error.strerror or type(error).__name__}") from error
    if tls is None:
        return sock
    try:
        sock.settimeout(remaining(deadline))
        return _tls_context(tls).current().wrap_socket(sock, server_hostname=host)
    except OSError as error:
        sock.close()
        reason = getattr(error, "reason", None) or type(error).__name__
        raise AssociationRefused(f"TLS failed: {reason}") from error


def negotiate(stream: PduStream, request: bytes, deadline: float | None) -> AssociateAccept:
    """Send the A-ASSOCIATE-RQ; what the peer accepted.

    Raises:
        AssociationRefused: it did not.
        AssociationEnded: it did not answer in time, or is gone.
    """
    stream.send([request], remaining(deadline))
    kind, length = stream.read_header(remaining(deadline))
    if kind == A_ASSOCIATE_RJ:
        raise AssociationRefused(describe_rejection(stream.read_control(length)))
    if kind == A_ABORT:
        raise AssociationRefused("the peer aborted the negotiation")
    if kind != A_ASSOCIATE_AC or length > _LONGEST_ANSWER:
        raise AssociationRefused("the peer's answer is not an A-ASSOCIATE-AC")
    answer = bytearray()
    for chunk in stream.chunks(length):
        answer += chunk
        if remaining(deadline) == 0:
            raise AssociationEnded("timeout")
    return decode_associate_accept(bytes(answer))


@functools.lru_cache(maxsize=8)
def _tls_context(settings: TlsSettings) -> TlsContext:
    """One context for all connections, which looks for new certificates by itself."""
    return TlsContext(settings, server_side=False)
