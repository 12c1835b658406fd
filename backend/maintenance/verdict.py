"""The two lists beside each other, and second looks at what does not fit, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from backend.maintenance.findings import Finding
from backend.maintenance.index import IndexedAttachment
from backend.transfer.object_store.protocols import ListedObject


@dataclass(frozen=True)
class Verdict:
    """What a second look showed."""

    finding: Finding | None = None
    doubt: IndexedAttachment | None = None  # it seems to be missing
    pending: int = 0
    removed: int = 0
    read: int = 0
    read_bytes: int = 0
    archived: int = 0
    only_in_file_system: int = 0


class Window:
    """Runs judgements in a pool, not more at a time than fit; their verdicts are taken by the one thread that asks."""

    def __init__(self, pool: ThreadPoolExecutor, limit: int, take: Callable[[Verdict], None]) -> None:
        self._pool = pool
        self._limit = limit
        self._take = take
        self._running: deque[Future[Verdict]] = deque()

    def submit(self, judge: Callable[[], Verdict]) -> None:
        if len(self._running) >= self._limit:
            self._take(self._running.popleft().result())
        self._running.append(self._pool.submit(judge))

    def drain(self) -> None:
        while self._running:
            self._take(self._running.popleft().result())


def side_by_side(
    attachments: Iterator[IndexedAttachment], objects: Iterator[ListedObject]
) -> Iterator[tuple[IndexedAttachment | None, ListedObject | None]]:
    """Pairs of the same name, in order; None where one has no partner."""
    attachment, listed = next(attachments, None), next(objects, None)
    while attachment is not None or listed is not None:
        name = attachment.name if attachment else None
        other = listed.key.rpartition("/")[2] if listed else None
        if other is None or (name is not None and name < other):
            yield attachment, None
            attachment = next(attachments, None)
        elif name is None or other < name:
            yield None, listed
            listed = next(objects, None)
        else:
            yield attachment, listed
            attachment, listed = next(attachments, None), next(objects, None)
