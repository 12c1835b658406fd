"""The worker's event loop: one epoll owns every connection that has nothing to do, threads serve those that have.

    accepted ─ TLS handshake ─ A-ASSOCIATE-RQ ─┬─ rejected ──────────────────────┐
               (epoll, deadline)               └─ thread ⇄ idle (epoll, deadline)├─ goodbye (epoll, deadline) ─ closed

A thread that has waited a quarter of a second for the next message hands the association back, so idle associations
cost a descriptor and a few kilobytes, and clients that are silent or slow cannot exhaust threads before they associate.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from config.settings import DicomSettings
from scp.connection import Connection
from scp.establishment import LOCAL_LIMIT_EXCEEDED, TEMPORARY_CONGESTION, Establishment, Rejection
from scp.occupancy import Occupancy
from scp.upper_layer.associate import AssociateRequest
from scp.upper_layer.association import PROVIDER, Association, Outcome
from scp.upper_layer.errors import AssociationEnded, ProtocolViolation
from scp.upper_layer.pdu_stream import abort_pdu, reject_pdu
from scp.upper_layer.transport import Transport

log = logging.getLogger(__name__)

_PATIENCE: Final = 0.25  # seconds a thread waits for the next message before it lets go
_GOODBYE: Final = 2.0  # seconds the peer has to close the connection after the last PDU
_TICK: Final = 0.5  # seconds between looks at deadlines
_COURTESY: Final = 0.005  # seconds a busier worker leaves a waiting connection to the others
_FULL_PAUSE: Final = 0.05  # seconds between looks at whether the others are full too
_WARN: Final = "connection_refused address=%s reason=%s"


@dataclass(eq=False)
class _Idle:
    """An established association without a thread."""

    association: Association
    entry: tuple[int, int]
    deadline: float


@dataclass(eq=False)
class _Goodbye:
    """Everything is said; the peer closes the connection (PS3.8 Sta13)."""

    transport: Transport
    deadline: float
    scratch: memoryview = field(default_factory=lambda: memoryview(bytearray(4096)))


@dataclass(frozen=True)
class _Returned:
    """What a thread gives back to the event loop."""

    transport: Transport
    entry: tuple[int, int]
    association: Association | None  # None: the peer left before there was one
    outcome: Outcome


_Parked = Connection | _Idle | _Goodbye


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
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._parked: dict[int, _Parked] = {}
        self._connections: dict[int, Connection] = {}  # of _parked, in the order they came
        self._threads = 0
        self._returned: deque[_Returned] = deque()
        self._busy: set[Association] = set()  # threads add, this loop removes
        self._listening = False
        self._listen_again = 0.0
        self._next_tick = 0.0
        self._drain_deadline: float | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self.accepting = False

    # -- from any thread

    def accept(self) -> None:
        """Begin to take connections."""
        self._command(self._start_accepting)

    def drain(self) -> None:
        """Take no more connections, finish the operations under way within DrainTimeout, then `run` returns."""
        self._command(self._start_draining)

    @property
    def associations(self) -> int:
        return self._occupancy.associations

    @property
    def connections(self) -> int:
        """Connections that are not associations: not yet, or not any more."""
        return sum(not isinstance(parked, _Idle) for parked in list(self._parked.values()))

    @property
    def is_draining(self) -> bool:
        return self._drain_deadline is not None

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    # -- the event loop

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
            wait = min(next_second, self._next_tick, *([self._listen_again] if self._pausing else [])) - now
            for descriptor, _ in self._epoll.poll(max(0.0, wait), 64):
                self._ready(descriptor)
        for descriptor in list(self._parked):
            self._unpark(descriptor).close()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self.wake()

    def _start_accepting(self) -> None:
        self.accepting = not self.is_draining

    def _start_draining(self) -> None:
        if self.is_draining:
            return
        self.accepting = False
        self._drain_deadline = time.monotonic() + self._settings.drain_timeout
        self._occupancy.close()
        for association in list(self._busy):
            association.draining = True
        for descriptor, parked in list(self._parked.items()):
            if isinstance(parked, _Idle):
                self._unpark(descriptor)
                self._finish(parked.association, parked.entry, parked.association.abort("draining"))
            elif isinstance(parked, Connection):
                self._say_goodbye(parked, TEMPORARY_CONGESTION)

    def _is_drained(self) -> bool:
        if self._drain_deadline is None:
            return False
        if time.monotonic() > self._drain_deadline:
            for association in list(self._busy):
                log.warning("operation_interrupted calling_ae_title=%r", association.peer.calling_ae_title)
                association.interrupt()
            return True
        return not self._threads and not self._parked

    def _ready(self, descriptor: int) -> None:
        if descriptor == self._wake:
            self._on_wake()
        elif self._listening and descriptor == self._listener.fileno():
            self._accept()
        elif (parked := self._parked.get(descriptor)) is not None:
            if isinstance(parked, Connection):
                self._advance(parked)
            elif isinstance(parked, _Idle):
                self._unpark(descriptor)
                work = functools.partial(self._serve, parked.association)
                self._start_thread(work, parked.association.stream.transport, parked.entry)
            else:
                self._drop_input(parked)

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._commands:
            self._commands.popleft()()
        while self._returned:
            self._take_back(self._returned.popleft())

    def _take_back(self, returned: _Returned) -> None:
        self._threads -= 1
        association, outcome = returned.association, returned.outcome
        if association is None:
            self._occupancy.leave(returned.entry)
            returned.transport.close()
            return
        self._busy.discard(association)
        if outcome is Outcome.IDLE and self.is_draining:
            outcome = association.abort("draining")
        self._finish(association, returned.entry, outcome)

    # -- accepting

    @property
    def _pausing(self) -> bool:
        return self.accepting and not self._listening

    def _watch_listener(self, now: float) -> None:
        """Leave the listener alone while this worker is full and another is not."""
        full = self._occupancy.is_full and not self._occupancy.is_service_full()
        wanted = self.accepting and not full and now >= self._listen_again
        if full and now >= self._listen_again:
            self._listen_again = now + _FULL_PAUSE
        if wanted and not self._listening:
            self._epoll.register(self._listener, select.EPOLLIN)
        elif self._listening and not wanted:
            self._epoll.unregister(self._listener)
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
            log.warning(_WARN, address[0], type(error).__name__)
            return
        if len(self._connections) >= self._settings.maximum_connections:
            self._close_oldest()
        connection = Connection(
            sock,
            _plain_address(address[0]),
            handshake_timeout=self._settings.tls_handshake_timeout,
            request_timeout=self._settings.associate_timeout,
        )
        self._park(connection, connection.events)
        self._advance(connection)

    def _close_oldest(self) -> None:
        oldest = next(iter(self._connections.values()))
        self._close_connection(oldest, "maximum_connections")

    def _advance(self, connection: Connection) -> None:
        try:
            before = connection.events
            body = connection.advance(self._settings.maximum_associate_length)
            if body is None:
                if connection.events != before:
                    self._epoll.modify(connection, connection.events)
                return
            request = self._establishment.judge(body, connection.address)
            entry = self._occupancy.admit(
                connection.address,
                request.calling_ae_title,
                self._settings.maximum_associations_per_address,
                self._settings.maximum_associations_per_ae_title,
            )
            if entry is None:
                raise LOCAL_LIMIT_EXCEEDED
        except Rejection as rejection:
            self._count("associations_rejected")
            self._say_goodbye(connection, rejection)
        except ProtocolViolation as violation:
            self._say_goodbye(connection, violation)
        except AssociationEnded as ended:
            self._close_connection(connection, str(ended))
        else:
            self._count("associations_accepted")
            self._unpark(connection.fileno())
            self._start_thread(functools.partial(self._establish, request, connection), connection.transport, entry)

    def _say_goodbye(self, connection: Connection, answer: Rejection | ProtocolViolation) -> None:
        """Answer a connection that will not become an association; our PDU fits into its empty send buffer."""
        log.warning(_WARN, connection.address, answer)
        if isinstance(answer, Rejection):
            pdu = reject_pdu(answer.result, answer.source, answer.reason)
        else:
            pdu = abort_pdu(PROVIDER, answer.reason)
        self._unpark(connection.fileno())
        try:
            connection.transport.send([pdu], 0)
            connection.transport.end_output()
        except AssociationEnded:
            connection.transport.close()
        else:
            self._await_close(connection.transport)

    def _close_connection(self, connection: Connection, reason: str) -> None:
        if reason != "closed_by_peer":
            log.warning(_WARN, connection.address, reason)
        self._count("connections_dropped")
        self._unpark(connection.fileno()).close()

    # -- parked descriptors

    def _park(self, parked: _Parked, events: int = select.EPOLLIN) -> None:
        transport = _transport(parked)
        descriptor = transport.fileno()
        self._parked[descriptor] = parked
        if isinstance(parked, Connection):
            self._connections[descriptor] = parked
            self._occupancy.set_connections(len(self._connections))
        self._epoll.register(descriptor, events)

    def _unpark(self, descriptor: int) -> Transport:
        parked = self._parked.pop(descriptor)
        if self._connections.pop(descriptor, None) is not None:
            self._occupancy.set_connections(len(self._connections))
        self._epoll.unregister(descriptor)
        return _transport(parked)

    def _expire(self, now: float) -> None:
        for descriptor, parked in list(self._parked.items()):
            if parked.deadline > now:
                continue
            if isinstance(parked, Connection):
                self._close_connection(parked, "associate_timeout")
            elif isinstance(parked, _Idle):
                self._unpark(descriptor)
                self._finish(parked.association, parked.entry, parked.association.abort("idle_timeout"))
            else:
                self._unpark(descriptor).close()

    def _drop_input(self, goodbye: _Goodbye) -> None:
        try:
            count: int | None = 1
            while count:
                count = goodbye.transport.receive_into(goodbye.scratch)
        except AssociationEnded:
            count = 0
        if count == 0:
            self._unpark(goodbye.transport.fileno()).close()

    def _await_close(self, transport: Transport) -> None:
        self._park(_Goodbye(transport, time.monotonic() + _GOODBYE))

    def _finish(self, association: Association, entry: tuple[int, int], outcome: Outcome) -> None:
        transport = association.stream.transport
        if outcome is Outcome.IDLE:
            idle = self._settings.scp_timeout
            self._park(_Idle(association, entry, time.monotonic() + idle if idle else float("inf")))
            return
        self._occupancy.leave(entry)
        if outcome is Outcome.FINISHED:
            self._await_close(transport)
        else:
            transport.close()

    # -- threads

    def _start_thread(
        self, work: Callable[[], tuple[Association, Outcome]], transport: Transport, entry: tuple[int, int]
    ) -> None:
        self._threads += 1
        threading.Thread(target=self._run_thread, args=(work, transport, entry), daemon=True).start()

    def _run_thread(
        self, work: Callable[[], tuple[Association, Outcome]], transport: Transport, entry: tuple[int, int]
    ) -> None:
        association, outcome = None, Outcome.CLOSED
        try:
            association, outcome = work()
        except AssociationEnded as ended:
            log.info("association_ended reason=%s", ended)
        except Exception as error:  # noqa: BLE001 -- the boundary of a thread: the association ends, the worker goes on
            log.error("association_failed exception=%s", type(error).__name__)  # noqa: TRY400 -- no data of the peer
        finally:
            self._returned.append(_Returned(transport, entry, association, outcome))
            self.wake()

    def _establish(self, request: AssociateRequest, connection: Connection) -> tuple[Association, Outcome]:
        return self._serve(self._establishment.establish(request, connection.transport, connection.address))

    def _serve(self, association: Association) -> tuple[Association, Outcome]:
        self._busy.add(association)
        association.draining = self.is_draining
        try:
            return association, association.serve(_PATIENCE)
        except Exception:
            self._busy.discard(association)
            raise


def _transport(parked: _Parked) -> Transport:
    return parked.association.stream.transport if isinstance(parked, _Idle) else parked.transport


def _plain_address(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket, as `DicomModalities` writes it."""
    return address.removeprefix("::ffff:") if "." in address else address
