"""Hands what the journal holds to Orthanc, several instances at a time, until Orthanc has it or says never."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from scp.origins import Origin
from scp.orthanc_client import BAD_FILE_FORMAT, INEXISTENT_TAG, OrthancClient, OrthancError, OrthancRefused
from scp.received.journal import Damaged, Entry, Journal

log = logging.getLogger(__name__)

_THREADS: Final = 2  # of one worker: receiving comes first, and two from each of two workers keep Orthanc busy
_ADOPTION: Final = 5.0  # seconds between two looks for what dead workers have left
_FIRST_PAUSE: Final = 0.5  # seconds until an instance is tried again; doubles
_LONGEST_PAUSE: Final = 30.0
_NEVER: Final = (BAD_FILE_FORMAT, INEXISTENT_TAG)
_TAKEN: Final = ("Success", "AlreadyStored", "FilteredOut")


class HandOver:
    """Thread-safe.

    Its threads end with the process, whatever they are at. The journal's files are then locked no longer, and another
    worker adopts them; Orthanc does not mind being handed an instance again.
    """

    def __init__(self, journal: Journal, client: OrthancClient, note_origin: Callable[[Origin], None]) -> None:
        self._journal = journal
        self._client = client
        self._note_origin = note_origin
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, int, Entry]] = []  # heap of (not before, number, failures, entry)
        self._numbers = itertools.count()

    def start(self) -> None:
        """Begin, first with what earlier workers have left."""
        threading.Thread(target=self._adopt, name="received-adopt", daemon=True).start()
        for number in range(_THREADS):
            threading.Thread(target=self._run, name=f"received-{number}", daemon=True).start()

    @property
    def journal(self) -> Journal:
        """What it hands over."""
        return self._journal

    def add(self, entry: Entry, failures: int = 0, pause: float = 0.0) -> None:
        """Hand it over, after `pause` seconds; returns at once."""
        with self._changed:
            heapq.heappush(self._waiting, (time.monotonic() + pause, next(self._numbers), failures, entry))
            self._changed.notify()

    def report(self) -> dict[str, Any]:
        """For the worker's report."""
        return {"Received": self._journal.report()}

    def _adopt(self) -> None:
        while True:
            try:
                adopted = self._journal.adopt()
            except OSError as error:
                log.error("received_unreadable reason=%s", error.strerror)  # noqa: TRY400 - one line per event
                adopted = []
            if adopted:
                log.warning("received_adopted count=%d", len(adopted))
            for entry in adopted:
                self.add(entry)
            time.sleep(_ADOPTION)

    def _run(self) -> None:
        while True:
            failures, entry = self._next()
            try:
                self._hand_over(entry, failures)
            except Exception as error:  # noqa: BLE001 - whatever it is, the instance must not be forgotten
                log.error("received_postponed instance=%s reason=%s", entry.name, type(error).__name__)  # noqa: TRY400
                self.add(entry, failures + 1, _LONGEST_PAUSE)

    def _next(self) -> tuple[int, Entry]:
        with self._changed:
            while True:
                now = time.monotonic()
                if self._waiting and self._waiting[0][0] <= now:
                    _, _, failures, entry = heapq.heappop(self._waiting)
                    return failures, entry
                self._changed.wait(self._waiting[0][0] - now if self._waiting else None)

    def _hand_over(self, entry: Entry, failures: int) -> None:
        body = partial(entry.blocks, verified=failures > 0 or not entry.is_new)
        try:
            stored = self._client.post_instance(body, entry.size)
        except Damaged:
            self._set_aside(entry, "the file is not what was received: check the disk of SpoolDirectory")
        except OrthancRefused as error:
            if error.error_code in _NEVER:
                self._set_aside(entry, str(error))
            else:
                self._postpone(entry, failures, str(error))
        except OrthancError as error:
            self._postpone(entry, failures, str(error))
        else:
            if stored.status not in _TAKEN:
                self._postpone(entry, failures, f"Orthanc answers {stored.status}")
                return
            if stored.status == "Success" and entry.origin:
                self._note_origin(Origin(stored.orthanc_id, stored.series_id, **entry.origin))
            self._journal.finish(entry)

    def _postpone(self, entry: Entry, failures: int, reason: str) -> None:
        if not failures:
            log.warning("received_postponed instance=%s bytes=%d reason=%s", entry.name, entry.size, reason)
        self.add(entry, failures + 1, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 10)))

    def _set_aside(self, entry: Entry, reason: str) -> None:
        self._journal.set_aside(entry)
        log.error(
            "received_refused instance=%s bytes=%d reason=%s action=keep_in_refused", entry.name, entry.size, reason
        )
