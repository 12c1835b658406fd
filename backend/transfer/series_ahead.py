"""How far ahead of its readers one series is fetched.

A window of instances beyond the furthest that was read. It grows by one with each read inside it, so it doubles with
each window that is used up, and is halved when readers go elsewhere, until nothing more is fetched for them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from backend.transfer.orthanc_index import Instance

FIRST_WINDOW: Final = 4  # instances
LARGEST_WINDOW: Final = 48  # instances
LARGEST_WINDOW_BYTES: Final = 64 * 1024 * 1024
_TURN: Final = 2  # steps back in a row after which the direction is the other one
FORGOTTEN_AFTER: Final = 60.0  # seconds without a read; the next reader begins anew


class SeriesAhead:
    """The instances of one series in the order in which Orthanc lists them, read from either end."""

    def __init__(self, series: str, instances: Sequence[Instance], *, heads: bool, window: int = FIRST_WINDOW) -> None:
        """`heads`: it is the files up to their pixel data that are read, not the whole ones."""
        self.series = series
        self.heads = heads
        self.instances = instances
        self.window = window  # 0: given up
        self.following: SeriesAhead | None = None  # the next series, once this one has been fetched
        self.is_last = False  # there is none
        self.is_backwards = False
        # places count from the end where reading began
        self._position = 0  # beyond the furthest that was read
        self._next = 0  # the next to be fetched
        self._last = -1  # that was read
        self._steps_back = 0  # in a row
        self._read_at = time.monotonic()

    def read(self, index: int) -> None:
        """Somebody has read this instance."""
        now = time.monotonic()
        place = self._turned(index)
        self._steps_back = self._steps_back + 1 if place == self._last - 1 else 0
        if self._steps_back == _TURN:  # Orthanc itself goes backwards to list the tags of a series
            self.is_backwards = not self.is_backwards
            place, self._steps_back = self._turned(index), 0
            self._go_to(place + 1, FIRST_WINDOW)
        elif now - self._read_at > FORGOTTEN_AFTER:
            self._go_to(place + 1, FIRST_WINDOW)
        elif self._position <= place < self._next:
            self.window = min(self.window + 1, LARGEST_WINDOW)
            self._position = place + 1
        elif not self._next or self._next <= place <= self._next + self.window:  # the first, or faster than we are
            self._go_to(place + 1, self.window)
        elif not self._position - LARGEST_WINDOW <= place < self._position:
            self._go_to(place + 1, self.window // 2)
        self._read_at, self._last = now, place

    def due(self, room: int) -> tuple[list[int], int]:
        """Which instances to fetch now so that `room` of them lie ahead of the readers; each is given out once.

        Also how many of `room` are left for the series that follows: none before the end of this one.
        """
        size = sum(self._size(place) for place in range(self._position, self._next))
        due: list[int] = []
        while self._next < min(self._position + room, len(self.instances)):
            size += self._size(self._next)
            if size > LARGEST_WINDOW_BYTES and self._next > self._position:
                return due, 0
            due.append(self._turned(self._next))
            self._next += 1
        left = self._position + room - self._next if self._next == len(self.instances) else 0
        return due, left

    def _go_to(self, position: int, window: int) -> None:
        self._position = self._next = position
        self.window = window

    def _size(self, place: int) -> int:
        return self.instances[self._turned(place)].size

    def _turned(self, index: int) -> int:
        """The place of an index, and the index of a place."""
        return len(self.instances) - 1 - index if self.is_backwards else index
