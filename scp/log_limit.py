"""A limit on log lines per event: a flood of connections must not fill the disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

_PER_SECOND: Final = 20  # lines of one event


class EventLimit(logging.Filter):
    """Lets the first lines of an event through in each second and tells how many it held back.

    The event is the first word of the message. Handlers call filters under their own lock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._seen: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the line; the first one of a new second carries what the last second lost."""
        second = int(time.monotonic())
        lost = 0
        if second != self._second:
            lost = sum(max(0, count - _PER_SECOND) for count in self._seen.values())
            self._second = second
            self._seen.clear()
        event = str(record.msg).split(" ", 1)[0]
        self._seen[event] += 1
        if lost:
            record.msg, record.args = f"{record.getMessage()} lines_held_back_before={lost}", ()
        return self._seen[event] <= _PER_SECOND
