"""The worker's event loop: one epoll owns every connection that has nothing to do, threads serve those that have.

    accepted ─ TLS handshake ─ A-ASSOCIATE-RQ ─┬─ rejected ─────────────┐
               (epoll, deadline)               └─ thread ⇄ idle (epoll) ┴─ goodbye (epoll, deadline) ─ closed

A thread that has waited a quarter of a second for the next message hands the association back, so idle associations
cost a descriptor and a few kilobytes, and clients that are silent or slow cannot exhaust threads before they associate.
"""

from __future__ import annotations

import functools
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from config.settings import DicomSettings
from scp.connection import Connection
from scp.establishment import LOCAL_LIMIT_EXCEEDED, Establishment, Rejection
from scp.occupancy import Occupancy
from scp.parking import Entry, Goodbye, Idle, Parked, Parking
from scp.service_threads import Returned, ServiceThreads
from scp.upper_layer.associate import AssociateRequest
from scp.upper_layer.association import PROVIDER, Association, Outcome
from scp.upper_layer.errors import AssociationEnded, ProtocolViolation
from scp.upper_layer.pdu_stream import abort_pdu, reject_pdu
from scp.upper_layer.transport import Transport

log = logging.getLogger(__name__)

_GOODBYE: Final = 2.0  # seconds the peer has to close the connection after the last PDU
_TICK: Final = 0.5  # seconds between looks at deadlines
_COURTESY: Final = 0.005  # seconds a busier worker leaves a waiting connection to the others
_FULL_PAUSE: Final = 0.05  # seconds between looks at whether the others are full too
_LAST_CHANCE: Final = 1.0  # seconds a connection has to associate once the worker drains


class AssociationServer:
    """Accepts from a shared, non-blocking listener. `run` belongs to one thread; the rest may be called from any."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        settings: DicomSettings,
        establishment: Establishment,
        occupancy: Occupancy,
        tls: Callable[[], ssl.SSLContext | None],
        count: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._settings = settings
        self._establishment = establishment
        self._occupancy = occupancy
        self._tls = tls
        self._count = count
        self._parking = Parking()
        self._threads = ServiceThreads(self._parking.wake)
        self._commands: deque[Callable[[], None]] = deque()
        self._connections = 0
        self._listening = False
        self._listen_again = 0.0
        self._next_tick = 0.0
        self._drain_deadline: float | None = None
        self.is_accepting = False

    def accept(self) -> None:
        """Begin to take connections."""
        self._command(self._start_accepting)

    def drain(self) -> None:
        """Take no more connections and finish what is under way within DrainTimeout; then `run` returns.

        An association may go on while its messages follow each other; one that pauses is aborted.
        """
        self._command(self._start_draining)

    @property
    def associations(self) -> int:
        return self._occupancy.associations

    @property
    def connections(self) -> int:
        """Connections that are not associations: not yet, or not any more."""
        return len(self._parking) - self._parking.count_idle()

    @property
    def is_draining(self) -> bool:
        return self._drain_deadline is not None

    def run(self, each_second: Callable[[], None]) -> None:
        """Serve until drained; `each_second` is called about that often."""
        next_second = 0.0
        while not self._is_drained():
            now = time.monotonic()
            if now >= next_second:
                each_second()
                next_second = now + 1.0
            if now >= self._next_tick:
                self._expire(now)
                self._next_tick = now + _TICK
            self._watch_listener(now)
            until = [next_second, self._next_tick]
            if self.is_accepting and not self._listening:
                until.append(self._listen_again)
            for descriptor in self._parking.wait(min(until) - now):
                self._ready(descriptor)
            while self._commands:
                self._commands.popleft()()
            for returned in self._threads.returned():
                self._take_back(returned)
        self._threads.interrupt()

    # -- commands

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._parking.wake()

    def _start_accepting(self) -> None:
        self.is_accepting = not self.is_draining

    def _start_draining(self) -> None:
        if self.is_draining:
            return
        now = time.monotonic()
        self.is_accepting = False
        self._drain_deadline = now + self._settings.drain_timeout
        self._occupancy.close()
        for connection in self._parking.all(Connection):
            connection.deadline = min(connection.deadline, now + _LAST_CHANCE)
        for idle in self._parking.all(Idle):
            self._abort_idle(idle, "draining")

    def _is_drained(self) -> bool:
        if self._drain_deadline is None:
            return False
        return time.monotonic() > self._drain_deadline or not (self._threads.running or self._parking)

    # -- accepting

    def _watch_listener(self, now: float) -> None:
        """Leave the listener alone while this worker is full and another is not."""
        full = self._occupancy.is_full and not self._occupancy.is_service_full()
        if full and now >= self._listen_again:
            self._listen_again = now + _FULL_PAUSE
        wanted = self.is_accepting and not full and now >= self._listen_again
        if wanted and not self._listening:
            self._parking.watch(self._listener.fileno())
        elif self._listening and not wanted:
            self._parking.unwatch(self._listener.fileno())
        self._listening = wanted

    def _accept(self) -> None:
        now = time.monotonic()
        if self._occupancy.is_busier_than_others() and now >= self._listen_again + _COURTESY:
            self._listen_again = now + _COURTESY
            self._watch_listener(now)
            return
        try:
            sock, address = self._listener.accept()
        except OSError:
            return  # another worker was faster, or the peer has gone
        try:
            context = self._tls()
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            sock.close()
            _log_refused(address[0], type(error).__name__)
            return
        if self._connections >= self._settings.maximum_connections:
            self._drop(next(self._parking.all(Connection)), "maximum_connections")
        connection = Connection(
            sock,
            _plain_address(address[0]),
            handshake_timeout=self._settings.tls_handshake_timeout,
            request_timeout=self._settings.associate_timeout,
        )
        self._parking.put(connection)
        self._count_connections(1)
        self._advance(connection)

    def _advance(self, connection: Connection) -> None:
        """Take what a connection has sent; answer its A-ASSOCIATE-RQ once it is whole."""
        before = connection.events
        try:
            body = connection.advance(self._settings.maximum_associate_length)
            if body is not None:
                self._admit(connection, body)
            elif connection.events != before:
                self._parking.update(connection)
        except Rejection as rejection:
            self._note(rejection, connection.address)
            self._reject(self._take(connection), rejection)
        except ProtocolViolation as violation:
            self._count("connections_dropped")
            _log_refused(connection.address, str(violation))
            self._answer(self._take(connection), abort_pdu(PROVIDER, violation.reason))
        except AssociationEnded as ended:
            self._drop(connection, str(ended))

    def _admit(self, connection: Connection, body: bytes) -> None:
        request = self._establishment.judge(body)
        limits = self._settings.maximum_associations_per_address, self._settings.maximum_associations_per_ae_title
        entry = self._occupancy.admit(connection.address, request.calling_ae_title, *limits)
        if entry is None:
            raise LOCAL_LIMIT_EXCEEDED
        transport = self._take(connection)
        self._threads.establish(
            functools.partial(self._establish, request, transport, connection.address), transport, entry
        )

    def _establish(self, request: AssociateRequest, transport: Transport, address: str) -> Association:
        """In a thread of its own: it may have to wait for Orthanc."""
        try:
            association = self._establishment.establish(request, transport, address)
        except Rejection as rejection:
            self._note(rejection, address)
            raise
        self._count("associations_accepted")
        return association

    def _note(self, rejection: Rejection, address: str) -> None:
        _log_refused(address, rejection.text)
        self._count("associations_rejected")

    def _reject(self, transport: Transport, rejection: Rejection) -> None:
        self._answer(transport, reject_pdu(rejection.result, rejection.source, rejection.reason))

    def _answer(self, transport: Transport, pdu: bytes) -> None:
        """Send the last PDU to a connection that will not associate; it fits into its empty send buffer."""
        try:
            transport.send([pdu], 0)
        except AssociationEnded:
            transport.close()
        else:
            transport.end_output()
            self._await_close(transport)

    def _drop(self, connection: Connection, reason: str) -> None:
        if reason != "closed_by_peer":
            _log_refused(connection.address, reason)
            self._count("connections_dropped")
        self._take(connection).close()

    def _take(self, connection: Connection) -> Transport:
        self._count_connections(-1)
        return self._parking.take(connection)

    def _count_connections(self, change: int) -> None:
        self._connections += change
        self._occupancy.set_connections(self._connections)

    # -- what waits, and what comes back from threads

    def _ready(self, descriptor: int) -> None:
        parked = self._parking.get(descriptor)
        if isinstance(parked, Connection):
            self._advance(parked)
        elif isinstance(parked, Idle):
            self._parking.take(parked)
            self._threads.serve(parked.association, parked.entry)
        elif isinstance(parked, Goodbye):
            if parked.has_ended():
                self._parking.take(parked).close()
        elif self._listening and descriptor == self._listener.fileno():
            self._accept()

    def _expire(self, now: float) -> None:
        for parked in self._parking.expired(now):
            self._end(parked)

    def _end(self, parked: Parked) -> None:
        """Its deadline has passed."""
        if isinstance(parked, Connection):
            self._drop(parked, "associate_timeout")
        elif isinstance(parked, Idle):
            self._abort_idle(parked, "idle_timeout")
        else:
            self._parking.take(parked).close()

    def _abort_idle(self, idle: Idle, reason: str) -> None:
        self._parking.take(idle)
        self._finish(idle.association, idle.entry, idle.association.abort(reason))

    def _take_back(self, returned: Returned) -> None:
        if returned.association is None:
            self._occupancy.leave(returned.entry)
            if returned.rejection:
                self._reject(returned.transport, returned.rejection)
            else:
                returned.transport.close()
            return
        outcome = returned.outcome
        if outcome is Outcome.IDLE and self.is_draining:
            outcome = returned.association.abort("draining")
        self._finish(returned.association, returned.entry, outcome)

    def _finish(self, association: Association, entry: Entry, outcome: Outcome) -> None:
        if outcome is Outcome.IDLE:
            idle = self._settings.scp_timeout
            self._parking.put(Idle(association, entry, time.monotonic() + idle if idle else float("inf")))
            return
        self._occupancy.leave(entry)
        if outcome is Outcome.FINISHED:
            self._await_close(association.stream.transport)
        else:
            association.stream.transport.close()

    def _await_close(self, transport: Transport) -> None:
        self._parking.put(Goodbye(transport, time.monotonic() + _GOODBYE))


def _log_refused(address: str, reason: str) -> None:
    log.warning("connection_refused address=%s reason=%s", address, reason)


def _plain_address(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket, as `DicomModalities` writes it."""
    return address.removeprefix("::ffff:") if "." in address else address
