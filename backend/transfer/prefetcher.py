"""Fetches attachments into the cache before anybody asks for them, behind everybody who does ask.

What is fetched ahead and not read yet may fill a part of the cache, never the whole; it is never worth a retry, and
while S3 is away nothing is tried.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from backend.transfer.availability import GET, Availability
from backend.transfer.counters import Counters
from backend.transfer.download_slots import Priority
from backend.transfer.download_threads import Download, DownloadThreads
from backend.transfer.downloader import NoRoom
from backend.transfer.fetcher import Fetcher
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.read_cache import ReadCache
from backend.transfer.unread import Unread
from config.http.asked import Asked

log = logging.getLogger(__name__)

_LONGEST_QUEUE: Final = 2000  # attachments
# seconds in which it should be read
_LIFETIME: Final = {Priority.SEND: 60.0, Priority.AHEAD: 60.0, Priority.PREFETCH: 3600.0}
# the cache divided by this may be unread
_SHARE: Final = {Priority.SEND: 4, Priority.AHEAD: 4, Priority.PREFETCH: 2}

FETCHED: Final = "Fetched"
HERE: Final = "AlreadyHere"  # or on its way
NO_ROOM: Final = "NoRoom"
FAILED: Final = "Failed"
CANCELLED: Final = "Cancelled"
OUTCOMES: Final = (FETCHED, HERE, NO_ROOM, FAILED, CANCELLED)


@dataclass(order=True)
class _Order:
    priority: Priority
    number: int
    name: str = field(compare=False)
    size: int = field(compare=False)
    on_end: Callable[[str], None] = field(compare=False)


class Prefetcher:
    """A queue and the threads that serve it. Thread-safe."""

    def __init__(
        self, fetcher: Fetcher, cache: ReadCache, *, availability: Availability, counters: Counters, threads: int
    ) -> None:
        """`threads` downloads under way at a time. Nothing happens before `start`."""
        self._fetcher = fetcher
        self._availability = availability
        self._counters = counters
        self._threads = DownloadThreads(self._begin, threads)
        self._lock = threading.Lock()
        self._numbers = count()
        self._queue: list[_Order] = []  # heap
        self._unread = {
            priority: Unread(cache.directory, cache.maximum // share, _LIFETIME[priority])
            for priority, share in _SHARE.items()
        }

    def start(self) -> None:
        self._threads.start()

    def submit(
        self, name: str, size: int, priority: Priority, on_end: Callable[[str], None] = lambda _outcome: None
    ) -> bool:
        """Queue an attachment of `size` bytes; False: too many wait already. `on_end` gets one of `OUTCOMES`."""
        with self._lock:
            if len(self._queue) >= _LONGEST_QUEUE:
                return False
            heapq.heappush(self._queue, _Order(priority, next(self._numbers), name, size, on_end))
        self._threads.wake()
        return True

    def cancel(self, priority: Priority) -> None:
        """Forget what waits with this priority."""
        with self._lock:
            cancelled = [order for order in self._queue if order.priority == priority]
            self._queue = [order for order in self._queue if order.priority != priority]
            heapq.heapify(self._queue)
        for order in cancelled:
            order.on_end(CANCELLED)

    def read(self, name: str) -> bool:
        """Somebody has read this attachment; whether it had been fetched ahead."""
        was_ahead = sum(unread.remove(name) for unread in self._unread.values()) > 0
        self._counters.add("ahead_reads", was_ahead)
        return was_ahead

    def unread_bytes(self, priority: Priority) -> int:
        return self._unread[priority].bytes

    def _begin(self) -> Download | None:
        with self._lock:
            return self._fetch(heapq.heappop(self._queue)) if self._queue else None

    def _fetch(self, order: _Order) -> Download:
        order.on_end((yield from self._outcome(order)))

    def _outcome(self, order: _Order) -> Generator[Asked | None, bool | None, str]:
        if self._availability.error(GET) is not None:
            return FAILED
        unread = self._unread[order.priority]
        if order.name in unread:
            return HERE
        if not unread.add(order.name, order.size):
            return NO_ROOM
        outcome = FAILED
        try:
            is_fetched = yield from self._fetcher.fetch_ahead(order.name, order.priority)
            outcome = FETCHED if is_fetched else HERE
        except NoRoom:
            outcome = NO_ROOM
        except (ObjectStoreError, OSError) as error:
            log.info("prefetch_failed name=%s reason=%s", order.name, error)
        except Exception as error:  # noqa: BLE001 - a guess that goes wrong must not end the thread
            log.error("prefetch_failed name=%s reason=%r", order.name, error)  # noqa: TRY400 - one line per event
        finally:
            if outcome != FETCHED:
                unread.remove(order.name)
        self._counters.add("ahead_downloads", outcome == FETCHED)
        return outcome
