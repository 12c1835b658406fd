"""A connection on its way to an association: TLS handshake, then the A-ASSOCIATE-RQ, read without ever blocking."""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import Final, cast

from scp.upper_layer.errors import AbortReason, AssociationEnded, ProtocolViolation
from scp.upper_layer.pdu_stream import A_ASSOCIATE_RQ, HEADER
from scp.upper_layer.transport import Transport

_CHUNK: Final = 65536  # bytes read at once


class Connection:
    """Advances when its socket is ready; belongs to the event loop of the server."""

    def __init__(self, sock: socket.socket, address: str, *, handshake_timeout: float, request_timeout: float) -> None:
        self.transport = Transport(sock)
        self.address = address
        self.opened = time.monotonic()
        self._needs_handshake = isinstance(sock, ssl.SSLSocket)
        self._request_timeout = request_timeout
        self.deadline = self.opened + (handshake_timeout if self._needs_handshake else request_timeout)
        self._received = bytearray()
        self.events = select.POLLIN  # what it waits for

    def advance(self, maximum_length: int) -> bytes | None:
        """Take what has arrived: the body of the A-ASSOCIATE-RQ once it is whole, None before.

        Raises:
            ProtocolViolation: it is something else; PS3.8 Sta2 asks for A-ABORT.
            AssociationEnded: the connection ended, or TLS failed.
        """
        if self._needs_handshake and not self._shake_hands():
            return None
        while True:
            wanted = self._wanted(maximum_length)
            if not wanted:
                return bytes(self._received[HEADER.size :])
            # Never more than this PDU: what follows belongs to the association.
            chunk = bytearray(min(wanted, _CHUNK))
            count = self.transport.receive_into(memoryview(chunk))
            if count is None:
                return None
            if not count:
                raise AssociationEnded("closed_by_peer")
            self._received += memoryview(chunk)[:count]

    def _wanted(self, maximum_length: int) -> int:
        """Bytes still missing from the header, or from the whole PDU."""
        if self._received and self._received[0] != A_ASSOCIATE_RQ:
            known = 1 <= self._received[0] <= 7
            reason = AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU
            raise ProtocolViolation("first_pdu", reason)
        if len(self._received) < HEADER.size:
            return HEADER.size - len(self._received)
        _, length = HEADER.unpack_from(self._received)
        if length > maximum_length:
            raise ProtocolViolation("a_associate_rq_length", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        return int(HEADER.size + length - len(self._received))

    def _shake_hands(self) -> bool:
        try:
            cast("ssl.SSLSocket", self.transport.socket).do_handshake()
        except ssl.SSLWantReadError:
            self.events = select.POLLIN
            return False
        except ssl.SSLWantWriteError:
            self.events = select.POLLOUT
            return False
        except OSError as error:
            raise AssociationEnded(f"tls_handshake {getattr(error, 'reason', None) or type(error).__name__}") from error
        self._needs_handshake = False
        self.events = select.POLLIN
        self.deadline = time.monotonic() + self._request_timeout
        return True
