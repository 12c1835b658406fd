"""How far ahead of its readers one series is fetched.

A window of instances beyond the furthest that was read. It grows by one with each read inside it, so it doubles with
each window that is used up, and is halved when readers go elsewhere, until nothing more is fetched for them.

Since Orthanc 1.13 one reader is several threads, whose reads come a little out of order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from backend.transfer.series_index import Instance

FIRST_WINDOW: Final = 4  # instances
LARGEST_WINDOW: Final = 48  # instances
LARGEST_WINDOW_BYTES: Final = 64 * 1024 * 1024
_TURN: Final = 3  # steps back in a row after which the direction is the other one; Orthanc has four threads
FORGOTTEN_AFTER: Final = 60.0  # seconds without a read; the next reader begins anew


def in_order(instances: Sequence[Instance], *, by_number: bool) -> list[Instance]:
    """The instances by their number in the series, or as they are."""
    return sorted(instances, key=lambda instance: instance.number) if by_number else list(instances)


def is_by_number(instances: Sequence[Instance], first: str, second: str) -> bool:
    """Whether two instances, by SOPInstanceUID, were read one after the other because of their numbers.

    Orthanc 1.10 goes through a series in the order in which it lists it. Later ones list it by identifier, which is
    what loops over the list follow, but make archives by number: whichever makes the two neighbours is meant.
    """
    listed, numbered = (
        _distance(in_order(instances, by_number=by_number), first, second) for by_number in (False, True)
    )
    identifiers = [instance.orthanc_id for instance in instances]
    return numbered < listed or (numbered == listed and identifiers == sorted(identifiers))


def _distance(instances: Sequence[Instance], first: str, second: str) -> int:
    """How far they are apart; 0 unless both are there."""
    found = [place for place, instance in enumerate(instances) if instance.sop_instance_uid in (first, second)]
    return found[-1] - found[0] if found else 0


class SeriesAhead:
    """The instances of one series in the order in which they are read, from either end."""

    def __init__(self, series: str, instances: Sequence[Instance], *, heads: bool, window: int = FIRST_WINDOW) -> None:
        """`heads`: it is the files up to their pixel data that are read, not the whole ones."""
        self.series = series
        self.heads = heads
        self.instances = instances
        self.by_number = False  # their order, or else that in which Orthanc lists them
        self.window = window  # 0: given up
        self.following: SeriesAhead | None = None  # the next series, once this one has been fetched
        self.is_last = False  # there is none
        self.is_backwards = False
        # places count from the end where reading began
        self._position = 0  # beyond the furthest that was read
        self._next = 0  # the next to be fetched
        self._unread: set[int] = set()  # places that were given out
        self._first = -1  # the lowest that was read since reading began, or began anew
        self._steps_back = 0  # beyond that, in a row
        self._read_at = time.monotonic()

    def read(self, index: int) -> None:
        """Somebody has read this instance."""
        now = time.monotonic()
        place = self._turned(index)
        self._steps_back = self._steps_back + 1 if place == self._first - 1 else 0
        if self._steps_back == _TURN and place:  # Orthanc itself goes backwards to list the tags of a series
            self.is_backwards = not self.is_backwards
            self._begin(self._turned(index), FIRST_WINDOW)
        elif now - self._read_at > FORGOTTEN_AFTER:
            self._begin(place, FIRST_WINDOW)
        elif place in self._unread:
            self._unread.remove(place)
            self.window = min(self.window + 1, LARGEST_WINDOW)
            self._position = max(self._position, place + 1)
        elif not self._next:  # the first
            self._begin(place, self.window)
        elif self._next <= place <= self._next + self.window:  # faster than we are
            self._position = self._next = place + 1
        elif not self._position - LARGEST_WINDOW <= place < self._position:
            self._begin(place, self.window // 2)
        else:
            self._first = min(self._first, place)
        self._read_at = now

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
            self._unread.add(self._next)
            self._next += 1
        left = self._position + room - self._next if self._next == len(self.instances) else 0
        return due, left

    def _begin(self, place: int, window: int) -> None:
        """Somebody begins to read at this place."""
        self._first, self._steps_back = place, 0
        self._position = self._next = place + 1
        self._unread.clear()
        self.window = window

    def _size(self, place: int) -> int:
        return self.instances[self._turned(place)].size

    def _turned(self, index: int) -> int:
        """The place of an index, and the index of a place."""
        return len(self.instances) - 1 - index if self.is_backwards else index
