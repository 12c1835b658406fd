"""How many downloads run at a time, and who goes first: whoever somebody waits for, before what is fetched ahead.

Downloads that were begun together arrive together. If all were hashed and written at once, the first would be ready
when the last is; if whoever comes first went first, what is wanted next might be ready last. So they take turns.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from itertools import count
from typing import Final

from backend.transfer.object_store.errors import Unreachable

_WAIT: Final = 60.0  # seconds


class Priority(IntEnum):
    """Lower goes first."""

    READ = 0  # somebody waits for it
    SEND = 1  # a retrieve request will send it soon
    AHEAD = 2  # whoever reads this series is expected to ask for it
    PREFETCH = 3  # an operator wants it here


Rank = int  # of a download: who began first goes first, whatever its priority, so that nobody starves


def busy_cores() -> int:
    """How many cores may hash and write downloads: the others are for those who wait for them."""
    return max(1, (os.cpu_count() or 1) // 2)


class Turns:
    """To hash and write what has come: a few at a time, the lowest rank first. Thread-safe."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._free = total
        self._waiting: list[tuple[Rank, threading.Lock]] = []  # heap; each lock is held until it is their turn

    @contextmanager
    def held(self, rank: Rank) -> Iterator[None]:
        """Wait for a turn and take it; for what ends soon, whatever the network does."""
        turn = None
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                turn = threading.Lock()
                turn.acquire()
                heapq.heappush(self._waiting, (rank, turn))
        if turn is not None:
            turn.acquire()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    heapq.heappop(self._waiting)[1].release()
                else:
                    self._free += 1


class DownloadSlots:
    """A fixed number of slots. Thread-safe."""

    def __init__(self, total: int) -> None:
        """What nobody waits for gets at most three quarters of `total`, and at least one."""
        self.turns = Turns(busy_cores())
        self._limits = {
            Priority.READ: total,
            Priority.SEND: total,
            Priority.AHEAD: max(1, total * 3 // 4),
            Priority.PREFETCH: max(1, total // 2),
        }
        self._lock = threading.Lock()
        self._used = 0
        self._order = count()
        self._waiting: list[tuple[Priority, int, threading.Event]] = []  # heap

    @contextmanager
    def held(self, priority: Priority, timeout: float = _WAIT) -> Iterator[Rank]:
        """Hold a slot, and get the rank of its download; within one priority it is first come, first served.

        Raises:
            Unreachable: none became free within `timeout` seconds.
        """
        rank = self.taken(priority, timeout)
        try:
            yield rank
        finally:
            self.give_back()

    def taken(self, priority: Priority, timeout: float = _WAIT) -> Rank:
        """As `held`, until `give_back`."""
        with self._lock:
            rank = self._taken_at_once(priority)
            if rank is not None:
                return rank
            rank = next(self._order)
            ticket = (priority, rank, threading.Event())
            heapq.heappush(self._waiting, ticket)
            self._grant()
        if not ticket[2].wait(timeout) and not self._granted_late(ticket):
            raise Unreachable(f"no download could begin within {timeout:g} s: too many are waiting for S3")
        return rank

    def taken_at_once(self, priority: Priority) -> Rank | None:
        """As `taken`, without waiting; None: none is free."""
        with self._lock:
            return self._taken_at_once(priority)

    def give_back(self) -> None:
        with self._lock:
            self._used -= 1
            self._grant()

    def _taken_at_once(self, priority: Priority) -> Rank | None:
        if self._waiting or self._used >= self._limits[priority]:
            return None
        self._used += 1
        return next(self._order)

    def _grant(self) -> None:
        while self._waiting and self._used < self._limits[self._waiting[0][0]]:
            self._used += 1
            heapq.heappop(self._waiting)[2].set()

    def _granted_late(self, ticket: tuple[Priority, int, threading.Event]) -> bool:
        with self._lock:
            if ticket[2].is_set():
                return True
            self._waiting.remove(ticket)
            heapq.heapify(self._waiting)
            return False
