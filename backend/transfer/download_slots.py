"""How many downloads run at a time, and who goes first: whoever somebody waits for, before what is fetched ahead."""

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


class DownloadSlots:
    """A fixed number of slots. Thread-safe."""

    def __init__(self, total: int) -> None:
        """What nobody waits for gets at most three quarters of `total`, and at least one."""
        # To hash and write what has come. Downloads that were begun together arrive together: if all were worked on at
        # once, the first would be ready when the last is. The other half of the cores is for those who wait for it.
        self.turns = threading.Semaphore(max(1, (os.cpu_count() or 1) // 2))
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
    def held(self, priority: Priority, timeout: float = _WAIT) -> Iterator[None]:
        """Hold a slot; within one priority it is first come, first served.

        Raises:
            Unreachable: none became free within `timeout` seconds.
        """
        ticket = None
        with self._lock:
            if self._waiting or self._used >= self._limits[priority]:
                ticket = (priority, next(self._order), threading.Event())
                heapq.heappush(self._waiting, ticket)
                self._grant()
            else:
                self._used += 1
        if ticket is not None and not ticket[2].wait(timeout) and not self._granted_late(ticket):
            raise Unreachable(f"no download could begin within {timeout:g} s: too many are waiting for S3")
        try:
            yield
        finally:
            with self._lock:
                self._used -= 1
                self._grant()

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
