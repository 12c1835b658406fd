"""Counters of the transfer process, as they appear in its report. They begin at zero with each process."""

from __future__ import annotations

import threading
from typing import Final

# ahead_downloads are those of downloads that nobody had asked for yet, ahead_reads how many of these were then read
NAMES: Final = (
    "uploads",
    "upload_bytes",
    "upload_failures",
    "downloads",
    "download_bytes",
    "download_failures",
    "range_downloads",
    "range_download_bytes",
    "ahead_downloads",
    "ahead_reads",
    "deletions",
    "evictions",
    "corrupted",
    "mended",
    "removals_cancelled",
    "restored",
    "removed_again",
    "wrong_key",  # objects that take a key which is not here
    "unencrypted",  # objects that were refused because they should be encrypted
)


class Counters:
    """Named numbers that only grow. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(NAMES, 0)

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._values[name] += amount

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(self._values)
