"""DIMSE messages over a PDU stream: fragments in order, lengths bounded, slowness bounded (PS3.8 Annex E)."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from scp.upper_layer.command_set import NO_DATA_SET, CommandSet, decode_command_set, encode_command_set
from scp.upper_layer.errors import AbortReason, AssociationEnded, ProtocolViolation
from scp.upper_layer.limits import Limits
from scp.upper_layer.pdu_stream import (
    A_ABORT,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
    PDV_HEADER,
    PduStream,
)
from scp.upper_layer.transport import MOST_PARTS, Bytes

_COMMAND: Final = 1  # message control header, PS3.8 E.2
_LAST: Final = 2
_PDV_CONTROL: Final = 2  # context ID and message control header count in the PDV's length
_SLACK: Final = 6  # peers that take the maximum length for the value's alone
_LARGEST_PDV: Final = 131072  # bytes we send in one P-DATA-TF even when the peer sets no limit
_GATHERED: Final = 1024 * 1024  # bytes of a data set that are sent together
_P_DATA: Final = struct.Struct(">BxLLBB")  # PDU type, PDU length, PDV length, context ID, control


class ReleaseRequested(AssociationEnded):
    """The peer sent A-RELEASE-RQ and waits for our answer."""


class AbortedByPeer(AssociationEnded):
    """The peer sent A-ABORT."""


class Sink(Protocol):
    """Takes the fragments of a data set as they arrive."""

    def write(self, fragment: memoryview, /) -> object: ...


@dataclass(frozen=True)
class Command:
    """A command set that has arrived; its data set, if any, is the next thing in the stream."""

    context_id: int
    fields: CommandSet

    @property
    def has_data_set(self) -> bool:
        return bool(self.fields.get("CommandDataSetType", NO_DATA_SET) != NO_DATA_SET)


class MessageReader:
    """Reads command sets and data sets in turn."""

    def __init__(self, stream: PduStream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._pdu_left = 0
        self._began = 0.0  # of the message being read: when its first PDU came, and what had come before
        self._received_before = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the last P-DATA-TF has been read to its end."""
        return not self._pdu_left

    def read_command(self, timeout: float | None) -> Command:
        """The next command set; its first PDU must begin within `timeout` seconds.

        Raises:
            ReleaseRequested, AbortedByPeer: instead of a message.
            ProtocolViolation: the peer must be sent an A-ABORT.
            AssociationEnded: the peer stalled or is gone.
        """
        encoded = bytearray()
        context_id = 0
        for fragment_context, control, length in self._fragments(timeout, may_end=True):
            if context_id not in (0, fragment_context) or not control & _COMMAND:
                raise ProtocolViolation("fragment_order", AbortReason.UNEXPECTED_PDU_PARAMETER)
            context_id = fragment_context
            if len(encoded) + length > self._limits.maximum_command_length:
                raise ProtocolViolation("command_set_length")
            for chunk in self._value(length):
                encoded += chunk
            if control & _LAST:
                break
        return Command(context_id, decode_command_set(bytes(encoded)))

    def read_data_set(self, command: Command, sink: Sink) -> None:
        """Write the data set of `command` to `sink`.

        Raises:
            as `read_command`, and what `sink` raises.
        """
        for context_id, control, length in self._fragments(self._limits.idle_timeout, may_end=False):
            if context_id != command.context_id or control & _COMMAND:
                raise ProtocolViolation("fragment_order", AbortReason.UNEXPECTED_PDU_PARAMETER)
            for chunk in self._value(length):
                sink.write(chunk)
            if control & _LAST:
                return

    def _fragments(self, timeout: float | None, *, may_end: bool) -> Iterator[tuple[int, int, int]]:
        """Headers of PDVs: context ID, control header, bytes of the value that follows.

        `may_end`: A-RELEASE-RQ is in order instead of the first one.
        """
        self._began, self._received_before = 0.0, self._stream.received
        while True:
            if not self._pdu_left:
                self._next_p_data(timeout, may_end=may_end)
            self._began = self._began or time.monotonic()
            may_end, timeout = False, self._limits.idle_timeout
            length, context_id, control = PDV_HEADER.unpack(self._stream.read(PDV_HEADER.size))
            if length < _PDV_CONTROL or length + 4 > self._pdu_left:
                raise ProtocolViolation("pdv_length", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            self._pdu_left -= length + 4
            if 0 < self._pdu_left < PDV_HEADER.size:
                raise ProtocolViolation("pdv_length", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            yield context_id, control, length - _PDV_CONTROL
            self._check_pace()

    def _value(self, length: int) -> Iterator[memoryview]:
        """The value of a PDV as it arrives, which may be a byte at a time."""
        for chunk in self._stream.chunks(length):
            yield chunk
            self._check_pace()

    def _check_pace(self) -> None:
        late = time.monotonic() - self._began - self._limits.slow_message_grace
        if late > 0 and self._stream.received - self._received_before < late * self._limits.minimum_receive_rate:
            raise ProtocolViolation("too_slow")

    def _next_p_data(self, timeout: float | None, *, may_end: bool) -> None:
        kind, length = self._stream.read_header(timeout)
        if kind == P_DATA_TF:
            if not PDV_HEADER.size <= length <= self._limits.maximum_pdu_length + _SLACK:
                raise ProtocolViolation("pdu_length", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            self._pdu_left = length
            return
        if kind == A_RELEASE_RQ and may_end:
            self._stream.read_control(length)
            raise ReleaseRequested("released")
        if kind == A_ABORT:
            self._stream.read_control(length)
            raise AbortedByPeer("aborted_by_peer")
        known = A_ASSOCIATE_RQ <= kind <= A_RELEASE_RP
        reason = AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU
        raise ProtocolViolation("pdu_type", reason)


def send_message(
    stream: PduStream,
    context_id: int,
    command: CommandSet,
    data_set: BinaryIO | None,
    *,
    peer_maximum_length: int,
    timeout: float | None,
) -> None:
    """Send a message; `data_set` is read from its position to its end, `_GATHERED` and one PDU at a time.

    Peers that take small PDUs only get many at once: each system call gives other threads the interpreter.

    `peer_maximum_length` is the peer's maximum PDV list length, 0 = none (PS3.8 D.1).

    Raises:
        AssociationEnded: the peer is gone or stopped reading for `timeout` seconds.
    """
    room = min(peer_maximum_length or _LARGEST_PDV, _LARGEST_PDV) - PDV_HEADER.size
    values = iter(()) if data_set is None else _values(data_set, room)
    first = next(values, None)
    fields = {**command, "CommandDataSetType": 0x0001 if first else NO_DATA_SET}
    parts: list[Bytes] = []
    encoded = encode_command_set(fields)
    for start in range(0, len(encoded), room):
        last = start + room >= len(encoded)
        parts += _p_data(context_id, _COMMAND | (_LAST if last else 0), encoded[start : start + room])
    gathered = 0
    while first:
        following = next(values, None)
        parts += _p_data(context_id, 0 if following else _LAST, first)
        gathered += len(first)
        if following and (gathered >= _GATHERED or len(parts) >= MOST_PARTS):
            stream.send(parts, timeout)
            parts, gathered = [], 0
        first = following
    stream.send(parts, timeout)


def _values(data_set: BinaryIO, room: int) -> Iterator[Bytes]:
    """What is left of `data_set` in pieces of `room` bytes; not copied if it is in memory."""
    if isinstance(data_set, io.BytesIO):
        content = memoryview(data_set.getvalue())  # of which a BytesIO makes no copy, unlike read() and getbuffer()
        for start in range(data_set.tell(), len(content), room):
            yield content[start : start + room]
    else:
        while value := data_set.read(room):
            yield value


def _p_data(context_id: int, control: int, value: Bytes) -> list[Bytes]:
    """A P-DATA-TF with one PDV, PS3.8 9.3.5."""
    return [_P_DATA.pack(P_DATA_TF, len(value) + 6, len(value) + _PDV_CONTROL, context_id, control), value]
