"""What was fetched ahead and nobody has read yet: bounded, so that guesses never empty the cache of what was read."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backend.cache import UNREAD, cache_path

_SWEEP_INTERVAL: Final = 1.0  # seconds between two looks at all files


@dataclass
class _Entry:
    size: int
    since: float


class Unread:
    """Names and sizes. Thread-safe."""

    def __init__(self, cache: Path, maximum: int, lifetime: float) -> None:
        """At most `maximum` bytes; after `lifetime` seconds a file has had its chance and counts no longer."""
        self._cache = cache
        self._maximum = maximum
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}  # the oldest first
        self._bytes = 0
        self._swept_at = 0.0

    def add(self, name: str, size: int) -> bool:
        """Take note that it is going to be fetched ahead; False: there is too much already."""
        with self._lock:
            if self._bytes + size > self._maximum:
                self._sweep()
            if self._bytes + size > self._maximum:
                return False
            self._entries[name] = _Entry(size, time.monotonic())
            self._bytes += size
            return True

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def remove(self, name: str) -> bool:
        """It has been read, or it was not fetched after all; whether it was known."""
        with self._lock:
            return self._remove(name)

    @property
    def bytes(self) -> int:
        return self._bytes

    def _remove(self, name: str) -> bool:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._bytes -= entry.size
        return entry is not None

    def _sweep(self) -> None:
        """Forget what is old, evicted, or was read without our being told."""
        now = time.monotonic()
        if now - self._swept_at < _SWEEP_INTERVAL:
            return
        self._swept_at = now
        for name, entry in list(self._entries.items()):
            if now - entry.since > self._lifetime or (now - entry.since > _SWEEP_INTERVAL and self._is_read(name)):
                self._remove(name)

    def _is_read(self, name: str) -> bool:
        try:
            return time.time() - cache_path(self._cache, name).stat().st_mtime < UNREAD / 2
        except FileNotFoundError:
            return False  # not fetched yet, or evicted again: then its lifetime ends it
        except OSError:
            return True
