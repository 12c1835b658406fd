"""Looks what is new in the spool: when the plugin says so, and once a second in any case."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from backend.transfer.folder import Folder
from backend.transfer.kept_names import KeptNames
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.removals import Removals
from backend.transfer.remover import Remover

log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0  # seconds
_SHORTEST_INTERVAL: Final = 0.03  # seconds; one listing serves many, and a hint stands for all of 20 ms
_BURST_INTERVAL: Final = 0.2  # seconds, while uploads give way: two images of a burst are not so far apart
_DUTY: Final = 5  # a listing that takes long is not begun again before this many times its duration


class SpoolWatch:
    """Keeps queue and removals in step with their folders."""

    def __init__(
        self,
        spool: Path,
        queue: PendingQueue,
        removals: Removals,
        remover: Remover,
        kept: Sequence[KeptNames],
        *,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_room` is called with each look: what need not be kept gives way to stores."""
        self._pending = Folder(spool / "pending")
        self._tombstones = Folder(spool / "tombstones")
        self._names: set[str] = set()  # in pending
        self._removed: set[str] = set()
        self._is_behind = False  # the queue has not taken over all of that
        self._queue = queue
        self._removals = removals
        self._remover = remover
        self._kept = kept
        self._make_room = make_room
        self._hint = threading.Event()
        self._is_broken = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="spool-watch", daemon=True).start()

    def wake(self) -> None:
        """Something is new."""
        self._hint.set()

    def look(self) -> None:
        """List what has changed. Tombstones come first: what is removed need not be uploaded.

        Raises:
            OSError: the disk failed; what was not seen is looked at again the next time.
        """
        try:
            removed = self._tombstones.changed_names()
            if removed is not None:
                self._removed = removed
                self._is_behind = True
                self._removals.refresh(removed)
            self._remover.drop_local()
            pending = self._pending.changed_names()
            if pending is not None:
                self._names = pending
                self._is_behind = True
            if self._is_behind:
                self._queue.refresh(self._names, self._removed)
                self._is_behind = False
            else:
                self._queue.nothing_new()
        finally:  # one bad file must not fill the disk with what is kept
            for folder in self._kept:
                folder.expire()
            self._make_room()

    def _run(self) -> None:
        while True:
            # After a hint it looks twice, see `TransferClient.wake`; what was held back is in S3 soon, and gives room
            is_to_look_again = self._hint.is_set() or self._queue.is_holding
            self._hint.clear()
            began = time.monotonic()
            try:
                self.look()
                self._is_broken = False
            except Exception as error:  # noqa: BLE001 - were this thread to end, nothing would be uploaded any more
                if not self._is_broken:
                    log.error("spool_unreadable reason=%r", error)  # noqa: TRY400 - one line per event
                self._is_broken = True
            pause = _BURST_INTERVAL if self._queue.is_holding else _SHORTEST_INTERVAL
            time.sleep(max(pause, _DUTY * (time.monotonic() - began)))
            if not (is_to_look_again or self._queue.is_holding):
                self._hint.wait(_INTERVAL)
