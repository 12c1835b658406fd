"""Connections that wait for their peers: one epoll and a deadline each, no thread.

Belongs to the event loop; only `wake` and `count_idle` may be called from other threads.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from scp.connection import Connection
from scp.upper_layer.association import Association
from scp.upper_layer.errors import AssociationEnded
from scp.upper_layer.transport import Transport

_EVENTS: Final = 64  # taken from epoll at once
_READS: Final = 16  # of what a peer still sends, until it is the others' turn

Entry = tuple[int, int]  # what `Occupancy.admit` gave


@dataclass(eq=False)
class Idle:
    """An established association between two messages."""

    association: Association
    entry: Entry
    deadline: float

    @property
    def transport(self) -> Transport:
        return self.association.stream.transport


@dataclass(eq=False)
class Goodbye:
    """Everything is said; the peer closes the connection (PS3.8 Sta13)."""

    transport: Transport
    deadline: float
    _scratch: memoryview = field(default_factory=lambda: memoryview(bytearray(4096)))

    def has_ended(self) -> bool:
        """Drop some of what the peer still sends, which may be without end; whether it has closed."""
        with contextlib.suppress(AssociationEnded):
            for _ in range(_READS):
                count = self.transport.receive_into(self._scratch)
                if not count:
                    return count == 0
            return False
        return True


Parked = Connection | Idle | Goodbye
_Kind = TypeVar("_Kind", Connection, Idle, Goodbye)


class Parking:
    """What waits, by descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._parked: dict[int, Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def wake(self) -> None:
        """Make `wait` return."""
        os.eventfd_write(self._wake, 1)

    def watch(self, descriptor: int) -> None:
        """Have `wait` report this descriptor, which is not parked, when it is readable."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)

    def wait(self, timeout: float) -> list[int]:
        """Descriptors with something to do, after at most `timeout` seconds."""
        ready = [descriptor for descriptor, _ in self._epoll.poll(max(0.0, timeout), _EVENTS)]
        if self._wake in ready:
            ready.remove(self._wake)
            os.eventfd_read(self._wake)
        return ready

    def put(self, parked: Parked) -> None:
        events = parked.events if isinstance(parked, Connection) else select.EPOLLIN
        descriptor = parked.transport.fileno()
        self._parked[descriptor] = parked
        self._epoll.register(descriptor, events)

    def update(self, connection: Connection) -> None:
        """`connection.events` has changed."""
        self._epoll.modify(connection.transport.fileno(), connection.events)

    def take(self, parked: Parked) -> Transport:
        """Stop watching; the caller owns the transport from here on."""
        descriptor = parked.transport.fileno()
        del self._parked[descriptor]
        self._epoll.unregister(descriptor)
        return parked.transport

    def get(self, descriptor: int) -> Parked | None:
        return self._parked.get(descriptor)

    def all(self, kind: type[_Kind]) -> Iterator[_Kind]:
        """All of one kind, the longest waiting first; they may be taken meanwhile."""
        return (parked for parked in list(self._parked.values()) if isinstance(parked, kind))

    def expired(self, now: float) -> list[Parked]:
        return [parked for parked in self._parked.values() if parked.deadline <= now]

    def count_idle(self) -> int:
        return sum(1 for _ in self.all(Idle))
