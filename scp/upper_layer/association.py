"""An established association on which we are the acceptor: messages in, requests dispatched, until it ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import BinaryIO

from scp.request import Peer
from scp.upper_layer.command_set import C_CANCEL_RQ, RESPONSE, CommandSet
from scp.upper_layer.errors import AssociationEnded, ProtocolViolation
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import (
    AbortedByPeer,
    Command,
    MessageReader,
    ReleaseRequested,
    Sink,
    send_message,
)
from scp.upper_layer.negotiation import NegotiatedContext
from scp.upper_layer.pdu_stream import RELEASE_RP_PDU, PduStream, abort_pdu

log = logging.getLogger(__name__)

SEND_TIMEOUT = 30.0  # seconds a peer may stop reading what it asked for
_GOODBYE_TIMEOUT = 1.0  # seconds a peer may hold up our last PDU

PROVIDER = 2  # source of an A-ABORT, PS3.8 Table 9-26


class Outcome(Enum):
    """What the thread that served the association leaves behind."""

    IDLE = auto()  # established, nothing to do: it needs no thread until the peer sends
    FINISHED = auto()  # we have said goodbye and wait for the peer to close the connection (PS3.8 Sta13)
    CLOSED = auto()


class _Nowhere:
    """Takes what nobody needs."""

    def write(self, fragment: memoryview, /) -> None: ...


class Association:
    """Serves one peer. One thread at a time, except `interrupt`."""

    def __init__(
        self,
        stream: PduStream,
        peer: Peer,
        contexts: dict[int, NegotiatedContext],
        *,
        extended: dict[str, bytes],
        peer_maximum_length: int,
        limits: Limits,
        dispatch: Callable[[Association, Command], None],
    ) -> None:
        self.stream = stream
        self.peer = peer
        self.contexts = contexts
        self.extended = extended
        self.limits = limits
        self.cancelled = False  # of the message being served
        self._dispatch = dispatch
        self._peer_maximum_length = peer_maximum_length
        self._reader = MessageReader(stream, limits)
        self._message_id: int | None = None  # being served
        self._waiting: Command | None = None  # arrived while another was being served
        self._ended: AssociationEnded | None = None
        self._last_message_id = 0  # of our own requests
        self._notifying = False  # an N-EVENT-REPORT of ours awaits its response

    def serve(self, patience: float) -> Outcome:
        """Serve messages until none arrives for `patience` seconds or the association ends; never raises for a peer."""
        try:
            while self.has_message(patience):
                command = self._waiting or self._reader.read_command(self.limits.idle_timeout)
                self._waiting = None
                self._serve(command)
            self.stream.close_buffer()
        except ReleaseRequested:
            return self._release()
        except AssociationEnded as ended:
            return self._end(ended)
        return Outcome.IDLE

    def abort(self, reason: str) -> Outcome:
        """Send A-ABORT as the service provider, whatever the peer is doing. Never waits: the event loop calls it."""
        return self._end(ProtocolViolation(reason), 0)

    def interrupt(self) -> None:
        """End it from another thread, with A-ABORT where that is safe: whoever waits gets AssociationEnded."""
        self.stream.transport.interrupt(abort_pdu(PROVIDER, 0))

    def read_data_set(self, command: Command, sink: Sink) -> None:
        self._reader.read_data_set(command, sink)

    def send(self, context_id: int, command: CommandSet, data_set: BinaryIO | None = None) -> None:
        """Send a message.

        Raises:
            AssociationEnded: the peer is gone or does not read.
        """
        if self._ended:
            raise self._ended
        try:
            send_message(
                self.stream,
                context_id,
                command,
                data_set,
                peer_maximum_length=self._peer_maximum_length,
                timeout=SEND_TIMEOUT,
            )
        except AssociationEnded as ended:
            self._ended = ended
            raise

    def is_cancelled(self) -> bool:
        """Look, without waiting, whether the peer has cancelled the message being served, or has gone."""
        try:
            while self._waiting is None and not self._ended and self.stream.wait(0):
                self._take_command()
        except AssociationEnded as ended:
            self._ended = ended
        return self.cancelled or self._ended is not None

    def exchange(self, context_id: int, command: CommandSet, data_set: BinaryIO) -> CommandSet:
        """Send a request of our own and return the response's command set; C-CANCEL may arrive in between.

        Raises:
            AssociationEnded: the peer is gone or does not answer.
        """
        self._last_message_id = self._last_message_id % 0xFFFF + 1
        self.send(context_id, {**command, "MessageID": self._last_message_id}, data_set)
        try:
            while True:
                response = self._take_command()
                if response and response.fields.get("MessageIDBeingRespondedTo") == self._last_message_id:
                    return response.fields
        except AssociationEnded as ended:
            self._ended = ended
            raise

    def notify(self, context_id: int, command: CommandSet, data_set: BinaryIO) -> CommandSet:
        """Send an N-EVENT-REPORT and return the response's command set.

        The peer may have sent a request before it read ours: it is served first (PS3.7 D.3.3.3 limits the operations
        invoked by each side, not both together). While such a request is served there can be no second notification.

        Raises:
            AssociationEnded: the peer is gone or does not answer, or a notification is already under way.
        """
        if self._notifying:
            raise AssociationEnded("notification_under_way")
        self._notifying = True
        self._last_message_id = message_id = self._last_message_id % 0xFFFF + 1
        self.send(context_id, {**command, "MessageID": message_id}, data_set)
        try:
            while True:
                received = self._waiting or self._reader.read_command(self.limits.idle_timeout)
                self._waiting = None
                if not received.fields.get("CommandField", 0) & RESPONSE:
                    self._serve(received)
                    continue
                if received.has_data_set:  # Event Reply, PS3.7 10.1.1.1.8: nothing in it concerns us
                    self._reader.read_data_set(received, _Nowhere())
                if received.fields.get("MessageIDBeingRespondedTo") == message_id:
                    return received.fields
        except AssociationEnded as ended:
            self._ended = ended
            raise
        finally:
            self._notifying = False

    def has_message(self, patience: float) -> bool:
        """Whether the peer has sent something, or does so or goes within `patience` seconds; it stays unread."""
        return self._waiting is not None or not self._reader.at_boundary or self.stream.wait(patience)

    def _serve(self, command: Command) -> None:
        self.cancelled = False
        self._message_id = command.fields.get("MessageID")
        try:
            self._dispatch(self, command)
        finally:
            self._message_id = None
        if self._ended:
            raise self._ended

    def _take_command(self) -> Command | None:
        """Read one command while a service runs: C-CANCEL is noted, a response is returned, a request has to wait."""
        if self._waiting is not None:
            raise ProtocolViolation("unexpected_request")  # PS3.7 D.3.3.3: no asynchronous window was negotiated
        command = self._reader.read_command(self.limits.idle_timeout)
        field = command.fields.get("CommandField", 0)
        if field == C_CANCEL_RQ:
            self.cancelled |= command.fields.get("MessageIDBeingRespondedTo") == self._message_id
        elif field & RESPONSE:
            if command.has_data_set:
                raise ProtocolViolation("unexpected_data_set")
            return command
        else:
            self._waiting = command
        return None

    def _release(self) -> Outcome:
        with contextlib.suppress(AssociationEnded):
            self.stream.send([RELEASE_RP_PDU], _GOODBYE_TIMEOUT)
            return Outcome.FINISHED
        return Outcome.CLOSED

    def _end(self, ended: AssociationEnded, timeout: float = _GOODBYE_TIMEOUT) -> Outcome:
        if isinstance(ended, ReleaseRequested):
            return self._release()
        log.info(
            "association_ended calling_ae_title=%r address=%s reason=%s",
            self.peer.calling_ae_title,
            self.peer.address,
            ended,
        )
        if isinstance(ended, AbortedByPeer) or str(ended) == "closed_by_peer":
            return Outcome.CLOSED
        reason = ended.reason if isinstance(ended, ProtocolViolation) else 0
        with contextlib.suppress(AssociationEnded):
            self.stream.send([abort_pdu(PROVIDER, reason)], timeout)
            self.stream.transport.end_output()
            return Outcome.FINISHED
        return Outcome.CLOSED
