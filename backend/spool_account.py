"""How many bytes the spool holds, without listing its folders for each store.

The plugin counts what it takes in; what leaves `pending` is counted by the transfer process, which alone takes files
out of there and reports how many bytes that were. So every file is added once and taken off once, whoever fails when.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path


class SpoolAccount:
    """Bytes of attachments on their way to `pending` and in it. Thread-safe."""

    def __init__(self, pending: Path) -> None:
        self._pending = pending
        self._lock = threading.Lock()
        self._staged: dict[str, int] = {}  # name → bytes of what is in incoming, or on its way to pending
        self._staged_bytes = 0
        self._accepted = 0  # bytes in pending at the last count, and accepted since
        self._released = 0  # bytes that the transfer process has taken out since then

    @property
    def used(self) -> int:
        """Bytes that are in the spool at most."""
        return self._staged_bytes + self._accepted - self._released

    def reserve(self, name: str, size: int, maximum: int) -> bool:
        """Count an attachment that is going to be written; False if it would not fit into `maximum` bytes."""
        with self._lock:
            if self.used + size > maximum:
                return False
            self._staged[name] = size
            self._staged_bytes += size
            return True

    def forget(self, name: str) -> None:
        """It is neither in incoming nor on its way to pending any more."""
        with self._lock:
            self._staged_bytes -= self._staged.pop(name, 0)

    def accept(self, name: str) -> None:
        """It has been renamed into pending."""
        with self._lock:
            size = self._staged.pop(name, 0)
            self._staged_bytes -= size
            self._accepted += size

    def released(self, total: int) -> None:
        """The transfer process says how many bytes it has taken out since it started."""
        with self._lock:
            self._released = total

    def recount(self) -> None:
        """Measure what is pending, while no transfer process runs; callers of other methods wait meanwhile.

        Raises:
            OSError: the disk does not tell; what that process had not reported yet stays counted.
        """
        with self._lock:
            self._accepted -= self._released
            self._released = 0
            self._accepted = self._bytes_pending()

    def _bytes_pending(self) -> int:
        total = 0
        for entry in os.scandir(self._pending):
            try:
                if entry.name not in self._staged:  # otherwise `accept` is going to add it
                    total += entry.stat().st_size
            except FileNotFoundError:
                continue  # unlinked since
        return total
