"""Read-ahead: whoever reads the images of a series one after the other finds the next ones in the cache.

Orthanc asks for attachments by UUID, without saying why. So the second time within a while that attachments of one
study had to be fetched, the file itself tells the series, and Orthanc's index the order of its instances, in which
archives and most other loops go through them. From then on a window of instances beyond the last one
that was read is fetched (`SeriesAhead`); at the end of a series it goes on in the next one of the study.

A single read fetches nothing else. What is fetched in vain is at most a window, and `Prefetcher` bounds the bytes.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from pathlib import Path
from queue import Full, Queue
from typing import Final

from backend.cache import cache_path
from backend.object_key import DICOM, DICOM_UNTIL_PIXEL_DATA, attachment_name
from backend.transfer.download_slots import Priority
from backend.transfer.identifiers import Identifiers, read_identifiers
from backend.transfer.prefetcher import Prefetcher
from backend.transfer.series_ahead import FIRST_WINDOW, SeriesAhead, in_order, is_by_number
from backend.transfer.series_index import IndexUnavailable, Instance, SeriesIndex

log = logging.getLogger(__name__)

_STUDY_MEMORY: Final = 30.0  # seconds in which a second miss counts as going through the study
_KNOWN_STUDIES: Final = 256
_KNOWN_SERIES: Final = 64
_QUEUED: Final = 1000  # reads to look at; more are not looked at


class ReadAhead:
    """Is told of reads, looks at them in a thread of its own, and has the prefetcher fetch what comes next."""

    def __init__(self, index: SeriesIndex, prefetcher: Prefetcher, cache: Path, *, legacy: bool) -> None:
        """Nothing happens before `start`."""
        self._index = index
        self._prefetcher = prefetcher
        self._cache = cache
        self._legacy = legacy
        self._reads: Queue[tuple[str, bool]] = Queue(_QUEUED)
        # StudyInstanceUID → monotonic time and SOPInstanceUID of the latest miss
        self._studies: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._series: OrderedDict[tuple[str, bool], SeriesAhead] = OrderedDict()  # the most recently read last
        self._places: dict[str, tuple[SeriesAhead, int]] = {}  # attachment → its series and its index there

    def start(self) -> None:
        threading.Thread(target=self._run, name="read-ahead", daemon=True).start()

    def read(self, name: str, *, missed: bool) -> None:
        """Somebody has read this attachment; `missed`: it had to be fetched. Returns at once."""
        try:
            self._reads.put_nowait((name, missed))
        except Full:
            pass

    def _run(self) -> None:
        while True:
            name, missed = self._reads.get()
            try:
                self._look_at(name, missed=missed)
            except IndexUnavailable as error:
                log.info("read_ahead_failed reason=%s", error)
            except Exception as error:  # noqa: BLE001 - a guess that goes wrong must not end the thread
                log.error("read_ahead_failed reason=%r", error)  # noqa: TRY400 - one line per event

    def _look_at(self, name: str, *, missed: bool) -> None:
        self._prefetcher.read(name)
        place = self._places.get(name) or (self._find(name) if missed else None)
        if place is None:
            return
        ahead, index = place
        ahead.read(index)
        self._series.move_to_end((ahead.series, ahead.heads))
        self._fetch(ahead, ahead.window)

    def _find(self, name: str) -> tuple[SeriesAhead, int] | None:
        """Where the attachment belongs, if its study is being gone through."""
        identifiers = read_identifiers(cache_path(self._cache, name))
        if identifiers is None:
            return None
        before = self._read_before(identifiers)
        if before is None:
            return None
        for series in self._index.series_with(identifiers.series):
            instances = self._index.instances_of_series(series)
            by_number = is_by_number(instances, before, identifiers.instance)
            for instance in instances:
                if instance.sop_instance_uid == identifiers.instance:
                    heads = name != self._name(instance)
                    ahead = self._known(series, instances, heads=heads, window=FIRST_WINDOW, by_number=by_number)
                    self._places[name] = ahead, ahead.instances.index(instance)
                    return self._places[name]
        return None

    def _read_before(self, identifiers: Identifiers) -> str | None:
        """The instance of this study that was read before this one, if that was a moment ago."""
        now = time.monotonic()
        at, instance = self._studies.pop(identifiers.study, (-math.inf, ""))
        self._studies[identifiers.study] = now, identifiers.instance
        if len(self._studies) > _KNOWN_STUDIES:
            self._studies.popitem(last=False)
        return instance if now - at < _STUDY_MEMORY else None

    def _known(
        self, series: str, instances: list[Instance], *, heads: bool, window: int, by_number: bool
    ) -> SeriesAhead:
        """What is known of the series, from now on at least."""
        ahead = self._series.get((series, heads))
        if ahead is None or len(ahead.instances) != len(instances):
            ahead = SeriesAhead(series, in_order(instances, by_number=by_number), heads=heads, window=window)
            ahead.by_number = by_number
            self._series[series, heads] = ahead
            if not heads:
                self._places.update((self._name(instance), (ahead, i)) for i, instance in enumerate(ahead.instances))
        if len(self._series) > _KNOWN_SERIES:
            _, forgotten = self._series.popitem(last=False)
            self._places = {name: place for name, place in self._places.items() if place[0] is not forgotten}
        return ahead

    def _fetch(self, ahead: SeriesAhead, room: int) -> None:
        """Have `room` instances beyond the readers of this series fetched, in this series and those that follow."""
        while True:
            due, left = ahead.due(room)
            for index in due:
                self._submit(ahead, index)
            if not left or ahead.window < FIRST_WINDOW or ahead.is_backwards:
                return
            if ahead.following is None and not ahead.is_last:
                self._look_beyond(ahead)
            if ahead.following is None:
                return
            ahead, room = ahead.following, left

    def _look_beyond(self, ahead: SeriesAhead) -> None:
        siblings = self._index.series_of_study_with(ahead.series)
        if ahead.series not in siblings[:-1]:
            ahead.is_last = True
            return
        following = siblings[siblings.index(ahead.series) + 1]
        instances = self._index.instances_of_series(following)
        ahead.following = self._known(
            following, instances, heads=ahead.heads, window=ahead.window, by_number=ahead.by_number
        )

    def _submit(self, ahead: SeriesAhead, index: int) -> None:
        instance = ahead.instances[index]
        name, size = self._name(instance), instance.size
        if ahead.heads:
            head = self._index.head_of(instance.orthanc_id)
            if head is None:
                return
            name, size = attachment_name(head[0], DICOM_UNTIL_PIXEL_DATA, legacy=self._legacy), head[1]
            self._places[name] = ahead, index
        self._prefetcher.submit(name, size, Priority.AHEAD)

    def _name(self, instance: Instance) -> str:
        return attachment_name(instance.uuid, DICOM, legacy=self._legacy)
