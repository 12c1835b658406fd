"""Mutual exclusion per attachment: whoever uploads, removes or publishes a name holds it meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NameLocks:
    """Any number of locks by name; a name nobody holds costs nothing. Not re-entrant."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Wait for the name and hold it."""
        with self._changed:
            while name in self._held:
                self._changed.wait()
            self._held.add(name)
        try:
            yield
        finally:
            self._release(name)

    @contextmanager
    def if_free(self, name: str) -> Iterator[bool]:
        """Hold the name if nobody does; the value says whether."""
        with self._changed:
            is_ours = name not in self._held
            if is_ours:
                self._held.add(name)
        try:
            yield is_ours
        finally:
            if is_ours:
                self._release(name)

    def _release(self, name: str) -> None:
        with self._changed:
            self._held.discard(name)
            self._changed.notify_all()
