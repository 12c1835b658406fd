"""`POST /isen/prefetch`: patients, studies, series and instances whose attachments somebody wants in the cache.

The queue is in memory: a restart forgets it. What it asks for is never more than half of the cache within an hour, and
while S3 is away it waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from backend.object_key import DICOM, DICOM_UNTIL_PIXEL_DATA, attachment_name
from backend.transfer.availability import GET, Availability
from backend.transfer.download_slots import Priority
from backend.transfer.prefetcher import OUTCOMES, Prefetcher
from backend.transfer.series_index import IndexUnavailable, Instance, SeriesIndex

log = logging.getLogger(__name__)

_MAXIMUM_QUEUE: Final = 10_000  # resources
_UNDER_WAY: Final = 64  # attachments handed to the prefetcher at a time
_PAUSE: Final = 5.0  # seconds between two questions whether S3 or Orthanc is back


class PrefetchRequests:
    """The queue. Thread-safe."""

    def __init__(self, index: SeriesIndex, prefetcher: Prefetcher, availability: Availability, *, legacy: bool) -> None:
        """Nothing happens before `start`."""
        self._index = index
        self._prefetcher = prefetcher
        self._availability = availability
        self._legacy = legacy
        self._changed = threading.Condition()
        self._queue: deque[str] = deque()
        self._turn = 0  # counts cancellations
        self._is_busy = False  # with a resource that has left the queue
        self._under_way = 0
        self._unknown = 0
        self._outcomes = dict.fromkeys(OUTCOMES, 0)

    def start(self) -> None:
        threading.Thread(target=self._run, name="prefetch-requests", daemon=True).start()

    def add(self, resources: Sequence[str]) -> dict[str, Any]:
        """Queue them, as far as there is room: `Accepted` of them; returns at once."""
        with self._changed:
            accepted = resources[: max(0, _MAXIMUM_QUEUE - len(self._queue))]
            self._queue.extend(accepted)
            self._changed.notify_all()
        return {"Accepted": len(accepted), "Refused": len(resources) - len(accepted), **self.state()}

    def cancel(self) -> None:
        """Forget what is queued; what is being downloaded is finished."""
        with self._changed:
            self._queue.clear()
            self._turn += 1
            self._changed.notify_all()
        self._prefetcher.cancel(Priority.PREFETCH)

    def state(self) -> dict[str, Any]:
        """Counts since this process started, but for what is queued and under way now.

        `UnreadBytes`: fetched and not read yet.
        """
        with self._changed:
            return {
                "QueuedResources": len(self._queue) + self._is_busy,
                "UnknownResources": self._unknown,
                "Attachments": {"UnderWay": self._under_way, **self._outcomes},
                "UnreadBytes": self._prefetcher.unread_bytes(Priority.PREFETCH),
            }

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                resource, turn = self._queue.popleft(), self._turn
                self._is_busy = True
            try:
                self._prefetch(resource, turn)
            except Exception as error:  # noqa: BLE001 - the next ones may fare better
                log.error("prefetch_failed resource=%s reason=%r", resource, error)  # noqa: TRY400 - one line per event
            with self._changed:
                self._is_busy = False

    def _prefetch(self, resource: str, turn: int) -> None:
        instances = self._instances(resource, turn)
        if not instances and turn == self._turn:
            with self._changed:
                self._unknown += 1
        for instance in instances:
            for name, size in self._attachments(instance):
                if not self._is_its_turn(turn):
                    return
                if not self._prefetcher.submit(name, size, Priority.PREFETCH, self._ended):
                    self._ended("NoRoom")

    def _instances(self, resource: str, turn: int) -> list[Instance]:
        while turn == self._turn:
            try:
                return self._index.instances_of(resource)
            except IndexUnavailable as error:
                log.info("prefetch_waits resource=%s reason=%s", resource, error)
                with self._changed:
                    self._changed.wait_for(lambda: turn != self._turn, _PAUSE)
        return []

    def _attachments(self, instance: Instance) -> Iterator[tuple[str, int]]:
        """Names and sizes of what Orthanc reads of an instance: the file, and its head where it keeps one."""
        yield attachment_name(instance.uuid, DICOM, legacy=self._legacy), instance.size
        try:
            head = self._index.head_of(instance.orthanc_id)
        except IndexUnavailable:
            return  # it costs one request later
        if head:
            yield attachment_name(head[0], DICOM_UNTIL_PIXEL_DATA, legacy=self._legacy), head[1]

    def _is_its_turn(self, turn: int) -> bool:
        """Wait until one more may be handed over, and count it; False: the request has been cancelled."""
        while turn == self._turn and not self._availability.wait(GET, _PAUSE):
            pass
        with self._changed:
            self._changed.wait_for(lambda: turn != self._turn or self._under_way < _UNDER_WAY)
            if turn != self._turn:
                return False
            self._under_way += 1
            return True

    def _ended(self, outcome: str) -> None:
        with self._changed:
            self._under_way -= 1
            self._outcomes[outcome] += 1
            self._changed.notify_all()
