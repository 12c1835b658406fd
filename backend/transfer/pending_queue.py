"""The order in which pending attachments are uploaded: a view of the folder `pending/`, oldest first.

The folder is the queue; this only remembers what has been seen, so that each file is looked at once, and who must wait
after a failure.

Stores come first: while more and more images arrive, none is handed out before it has waited for `LONGEST_HOLD`, and
the processors are the stores'. What one listing finds nothing new after goes at once, and so does everything while the
folder holds much. It begins with `give_way`.
"""

from __future__ import annotations

import heapq
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backend.transfer.back_off import back_off

_FIRST_PAUSE: Final = 0.5  # seconds
_LONGEST_PAUSE: Final = 30.0
LONGEST_HOLD: Final = 5.0  # seconds from its acceptance; a shorter burst of images is through by then


@dataclass
class _Pending:
    size: int  # bytes
    accepted: float  # mtime
    failures: int = 0
    is_taken: bool = False
    is_dropped: bool = False  # its file is gone, and whoever has taken it does not know yet


class PendingQueue:
    """Hands out each pending name to one thread at a time. Thread-safe."""

    def __init__(self, folder: Path, on_released: Callable[[int], None], *, held_bytes: int = 0) -> None:
        """`on_released` is told the size of each attachment that has left the folder, in bytes.

        Nothing is held back while the folder holds more than `held_bytes`.
        """
        self._folder = folder
        self._on_released = on_released
        self._held_bytes = held_bytes
        self._gives_way = False
        self._held: deque[tuple[float, float, str]] = deque()  # (until, accepted, name), not handed out yet
        self._changed = threading.Condition()
        self._pending: dict[str, _Pending] = {}
        self._waiting: list[tuple[float, float, str]] = []  # heap of (not before, accepted, name)
        self._bytes = 0
        self._stopped = False

    def refresh(self, names: set[str], removed: set[str]) -> None:
        """Take over a listing of the folder; what is `removed` is not uploaded, though its file is there still.

        Raises:
            OSError: some files could not be looked at; all else is taken over.
        """
        failures: list[OSError] = []
        with self._changed:
            known = self._pending.keys()
            is_burst = False
            for name in names - known - removed:
                try:
                    is_burst |= self._add(name)
                except OSError as error:
                    failures.append(error)
            for name in [name for name in known & names & removed if not self._pending[name].is_taken]:
                self._leave(name)
            for name in [name for name in known - names if not self._pending[name].is_taken]:
                self._forget(name)
            self._let_go(is_burst=is_burst)
        if failures:
            raise failures[0]

    def nothing_new(self) -> None:
        """The folder has not changed since it was listed."""
        with self._changed:
            self._let_go(is_burst=False)

    @property
    def bytes(self) -> int:
        """Of the files that are still to be uploaded."""
        return self._bytes

    def give_way(self) -> None:
        """Hold back from now on what arrives in a burst."""
        self._gives_way = True

    @property
    def is_holding(self) -> bool:
        """Whether a look soon will find something to hand out."""
        return bool(self._held)

    def take(self) -> str | None:
        """Wait for the next name; the caller answers with `finish` or `postpone`. None: stop."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._waiting and self._waiting[0][0] <= now:
                    _, _, name = heapq.heappop(self._waiting)
                    entry = self._pending.get(name)
                    if entry is not None and not entry.is_taken:
                        entry.is_taken = True
                        return name
                else:
                    self._changed.wait(self._waiting[0][0] - now if self._waiting else None)
            return None

    def finish(self, name: str) -> None:
        """The name has left the folder."""
        with self._changed:
            self._forget(name)

    def leave(self, name: str) -> None:
        """The name was removed; its file is still in the folder, and `dropped` tells when it goes."""
        with self._changed:
            is_dropped = self._pending[name].is_dropped
            size = self._leave(name)
            if is_dropped:
                self._on_released(size)

    def postpone(self, name: str, *, is_to_blame: bool) -> None:
        """Try it again: later and later if it is to blame itself, or whenever uploads go on."""
        with self._changed:
            entry = self._pending[name]
            entry.is_taken = False
            entry.failures += is_to_blame
            not_before = 0.0
            if is_to_blame:
                not_before = time.monotonic() + back_off(entry.failures, first=_FIRST_PAUSE, cap=_LONGEST_PAUSE)
            heapq.heappush(self._waiting, (not_before, entry.accepted, name))
            self._changed.notify()

    def dropped(self, name: str, size: int) -> None:
        """The pending file of a removed attachment, `size` bytes, has been unlinked."""
        with self._changed:
            entry = self._pending.get(name)
            if entry is None:
                self._on_released(size)  # it was not to be uploaded, or went before it was seen here
            elif entry.is_taken:
                entry.is_dropped = True
            else:
                self._forget(name)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def report(self) -> dict[str, Any]:
        with self._changed:
            oldest = min((entry.accepted for entry in self._pending.values()), default=None)
            return {
                "PendingCount": len(self._pending),
                "PendingBytes": self._bytes,
                "OldestPendingSeconds": None if oldest is None else max(0.0, round(time.time() - oldest, 3)),
            }

    def _add(self, name: str) -> bool:
        """Whether there is one more."""
        try:
            status = os.lstat(f"{self._folder}/{name}")
        except FileNotFoundError:
            return False  # gone again
        if not stat.S_ISREG(status.st_mode):
            return False
        self._pending[name] = _Pending(status.st_size, status.st_mtime)
        self._bytes += status.st_size
        age = max(0.0, time.time() - status.st_mtime)
        self._held.append((time.monotonic() + LONGEST_HOLD - age, status.st_mtime, name))
        return True

    def _let_go(self, *, is_burst: bool) -> None:
        """Hand out what has been held back; in a burst, only what is old."""
        holds = is_burst and self._gives_way and self._bytes <= self._held_bytes
        now = time.monotonic()
        count = 0
        while self._held and not (holds and self._held[0][0] > now):
            _, accepted, name = self._held.popleft()
            heapq.heappush(self._waiting, (0.0, accepted, name))
            count += 1
        self._changed.notify(count)  # not all: they would take the interpreter from each other for nothing

    def _forget(self, name: str) -> None:
        self._on_released(self._leave(name))

    def _leave(self, name: str) -> int:
        size = self._pending.pop(name).size
        self._bytes -= size
        return size
