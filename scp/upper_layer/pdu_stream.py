"""PDUs over a transport: headers checked before bodies, bodies handed on in place, every wait bounded (PS3.8 9.3)."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Final

from scp.upper_layer.errors import AbortReason, AssociationEnded, ProtocolViolation
from scp.upper_layer.transport import Bytes, Transport

A_ASSOCIATE_RQ: Final = 0x01
A_ASSOCIATE_AC: Final = 0x02
A_ASSOCIATE_RJ: Final = 0x03
P_DATA_TF: Final = 0x04
A_RELEASE_RQ: Final = 0x05
A_RELEASE_RP: Final = 0x06
A_ABORT: Final = 0x07

HEADER: Final = struct.Struct(">BxL")  # type, reserved, length
PDV_HEADER: Final = struct.Struct(">LBB")  # length of what follows it, context ID, message control header
CONTROL_LENGTH: Final = 4  # of A-ASSOCIATE-RJ, A-RELEASE-RQ, A-RELEASE-RP and A-ABORT, PS3.8 9.3.4 to 9.3.8
RECEIVE_BUFFER: Final = 131072  # bytes; one per busy association, none for an idle one


class PduStream:
    """Reads and writes the PDUs of one association. Blocks; used by one thread at a time.

    `close_buffer` gives the receive buffer up between messages, so that an idle association holds no memory.
    """

    def __init__(self, transport: Transport, *, pdu_timeout: float) -> None:
        self.transport = transport
        self._pdu_timeout = pdu_timeout
        self._buffer = memoryview(b"")  # none
        self._start = 0
        self._end = 0
        self.received = 0  # bytes taken from the transport so far

    @property
    def has_buffered(self) -> bool:
        """Whether bytes that have been received wait to be read."""
        return self._start < self._end

    def wait(self, timeout: float | None) -> bool:
        """Whether the peer has sent something within `timeout` seconds; the end of the connection counts."""
        return self.has_buffered or self.transport.wait_readable(timeout)

    def close_buffer(self) -> None:
        """Give the empty receive buffer back."""
        if not self.has_buffered:
            self._buffer = memoryview(b"")

    def read_header(self, timeout: float | None) -> tuple[int, int]:
        """The type and length of the next PDU, which must begin within `timeout` seconds.

        Raises:
            AssociationEnded: nothing came in time, or the connection ended.
        """
        if not self.has_buffered:
            self._receive(timeout)
        kind, length = HEADER.unpack(self.read(HEADER.size))
        return kind, length

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes inside a PDU; only for small, checked counts.

        Raises:
            AssociationEnded: the peer stalled or the connection ended.
        """
        if self._end - self._start >= count:
            self._start += count
            return bytes(self._buffer[self._start - count : self._start])
        return b"".join(bytes(chunk) for chunk in self.chunks(count))

    def chunks(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes as views of the receive buffer, each valid until the next is asked for.

        Raises:
            AssociationEnded: the peer stalled or the connection ended.
        """
        while count:
            if not self.has_buffered:
                self._receive(self._pdu_timeout)
            taken = min(count, self._end - self._start)
            chunk = self._buffer[self._start : self._start + taken]
            self._start += taken
            count -= taken
            yield chunk

    def read_control(self, length: int) -> bytes:
        """The body of a PDU of fixed length.

        Raises:
            ProtocolViolation: the length is another.
        """
        if length != CONTROL_LENGTH:
            raise ProtocolViolation("pdu_length", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        return self.read(length)

    def send(self, parts: list[Bytes], timeout: float | None) -> None:
        """Send the bytes of one or more PDUs."""
        self.transport.send(parts, timeout)

    def _receive(self, timeout: float | None) -> None:
        """Refill the empty buffer with whatever is there; wait up to `timeout` seconds for it."""
        if not self._buffer:
            self._buffer = memoryview(bytearray(RECEIVE_BUFFER))
        deadline = None if timeout is None else time.monotonic() + timeout
        while (count := self.transport.receive_into(self._buffer)) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not self.transport.wait_readable(left):
                raise AssociationEnded("timeout")
        if not count:
            raise AssociationEnded("closed_by_peer")
        self._start, self._end = 0, count
        self.received += count


def abort_pdu(source: int, reason: int) -> bytes:
    """A-ABORT, PS3.8 9.3.8; source 0 = service user, 2 = service provider."""
    return struct.pack(">BxLxxBB", A_ABORT, CONTROL_LENGTH, source, reason)


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ, PS3.8 9.3.4."""
    return struct.pack(">BxLxBBB", A_ASSOCIATE_RJ, CONTROL_LENGTH, result, source, reason)


RELEASE_RQ_PDU: Final = struct.pack(">BxLxxxx", A_RELEASE_RQ, CONTROL_LENGTH)
RELEASE_RP_PDU: Final = struct.pack(">BxLxxxx", A_RELEASE_RP, CONTROL_LENGTH)
