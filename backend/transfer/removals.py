"""The removals under way: one for each tombstone, and what is known of it beyond what the folder shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backend.transfer.back_off import back_off

BATCH: Final = 200  # removals taken at once
_SHORTEST: Final = 0.2  # seconds a removal is known before it is carried out
_LONGEST_PAUSE: Final = 30.0  # seconds until what failed is tried again
_HELD_AFTER: Final = 20.0  # seconds without a decision, after which a removal counts as held


@dataclass
class Removal:
    """What is known of one."""

    seen: float  # monotonic
    is_dropped: bool = False  # the cache holds nothing of it any more
    owner: str | None = None  # SOPInstanceUID
    is_cleared: bool = False  # the index does not refer to it
    is_undecided: bool = False  # the whole index must be read
    # missing attachments of the index that it is no copy of; whether they are the image of the same instance
    unlike: dict[str, bool] = field(default_factory=dict)
    not_before: float = 0.0  # monotonic
    failures: int = 0

    def failed(self) -> None:
        """Try again later and later."""
        self.failures += 1
        self.not_before = time.monotonic() + back_off(self.failures, first=1.0, cap=_LONGEST_PAUSE)


class Removals:
    """By name of the attachment. Thread-safe."""

    def __init__(self, tombstones: Path) -> None:
        self._tombstones = tombstones
        self._lock = threading.Lock()
        self._removals: dict[str, Removal] = {}

    def __len__(self) -> int:
        return len(self._removals)

    @property
    def held(self) -> int:
        """Those of which the index should have said by now that it does not refer to them, and has not."""
        now = time.monotonic()
        return sum(1 for _ in self.those(lambda r: not r.is_cleared and now - r.seen > _HELD_AFTER))

    def refresh(self, names: set[str]) -> None:
        """Take over a listing of the tombstones."""
        with self._lock:
            for name in names - self._removals.keys():
                self._removals[name] = Removal(time.monotonic())
            for name in self._removals.keys() - names:
                del self._removals[name]

    def get(self, name: str) -> Removal | None:
        return self._removals.get(name)

    def pop(self, name: str) -> Removal | None:
        """The removal is over."""
        with self._lock:
            return self._removals.pop(name, None)

    def those(self, condition: Callable[[Removal], bool]) -> list[tuple[str, Removal]]:
        """Names and removals of which the condition is true."""
        with self._lock:
            return [(name, removal) for name, removal in self._removals.items() if condition(removal)]

    def due(self, condition: Callable[[Removal], bool], grace: float) -> list[tuple[str, Removal]]:
        """A batch of those of which the condition is true and whose `grace`, in seconds, is over."""
        now = time.monotonic()
        found = []
        for name, removal in self.those(condition):
            if self._is_due(name, removal, now, grace):
                found.append((name, removal))
            if len(found) == BATCH:
                break
        return found

    def buried(self, name: str) -> float | None:
        """When Orthanc removed it, in Unix time; None: there is no tombstone any more."""
        try:
            return (self._tombstones / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def _is_due(self, name: str, removal: Removal, now: float, grace: float) -> bool:
        if now < removal.not_before or now - removal.seen < min(grace, _SHORTEST):
            return False
        try:
            buried = self.buried(name)
        except OSError:  # the disk fails; the others must go on
            removal.failed()
            return False
        if buried is None:
            return False
        age = time.time() - buried
        if age < 0:  # the clock was set back; ours since we have known of it will do
            age = now - removal.seen
        return age >= grace
