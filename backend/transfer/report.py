"""What the plugin is told about this process every second, and at once when the state of the object store changes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from backend.transfer.availability import Availability
from backend.transfer.canary import Canary
from backend.transfer.counters import Counters
from backend.transfer.index_guard import IndexGuard
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.read_cache import ReadCache
from backend.transfer.removals import Removals

log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0  # seconds


class ReleasedBytes:
    """Bytes that have left `pending/` since this process started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def add(self, size: int) -> None:
        with self._lock:
            self.total += size


class Reporter:
    """Sends reports from a thread of its own."""

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        *,
        spool: Path,
        released: ReleasedBytes,
        queue: PendingQueue,
        removals: Removals,
        guard: IndexGuard | None,
        canary: Canary,
        cache: ReadCache,
        availability: Availability,
        counters: Counters,
    ) -> None:
        self._send = send
        self._quarantine = spool / "quarantine"
        self._released = released
        self._queue = queue
        self._removals = removals
        self._guard = guard
        self._canary = canary
        self._cache = cache
        self._availability = availability
        self._counters = counters
        self.due = threading.Event()  # set it to have a report at once

    def start(self) -> None:
        threading.Thread(target=self._run, name="report", daemon=True).start()

    def report(self) -> dict[str, Any]:
        """Sizes in bytes, times in seconds."""
        return {
            "ReleasedBytes": self._released.total,
            **self._queue.report(),
            "TombstoneCount": len(self._removals),
            "HeldTombstoneCount": self._removals.held,
            "Reconciliation": self._guard.report() if self._guard else {"State": "Off"},
            "QuarantineCount": self._quarantined(),
            "ObjectStore": {**self._availability.report(), "VerifiesChecksums": self._canary.verifies_checksums},
            "Cache": self._cache.report(),
            "Counters": self._counters.snapshot(),
        }

    def _quarantined(self) -> int | None:
        try:
            return len(os.listdir(self._quarantine))
        except OSError:
            return None  # the disk fails; the rest of the report is wanted all the more

    def _run(self) -> None:
        while True:
            self.due.clear()
            try:
                self._send(self.report())
            except Exception as error:  # noqa: BLE001 - without reports the plugin takes this process for hung
                log.error("report_failed reason=%r", error)  # noqa: TRY400 - one line per event
            self.due.wait(_INTERVAL)
