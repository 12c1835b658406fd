"""Through the whole index, page by page, with somebody told how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from backend.maintenance.index import IndexedAttachment, OrthancIndex

_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True)
class Progress:
    """How far a tool is; `total` is 0 where it is not known."""

    step: str
    done: int
    total: int


def indexed(
    index: OrthancIndex, step: str, on_progress: Callable[[Progress], None]
) -> Iterator[list[IndexedAttachment]]:
    """The attachments of each page; it is told of once the next one is asked for.

    Raises:
        OrthancUnavailable: it cannot be asked.
    """
    total, done = index.count(), 0
    for resources, attachments in index.attachments():
        yield attachments
        done += resources
        on_progress(Progress(step, done, max(total, done)))


def with_each(
    index: OrthancIndex,
    work: Callable[[IndexedAttachment], _Outcome],
    *,
    parallel: int,
    step: str,
    on_progress: Callable[[Progress], None],
) -> Iterator[tuple[IndexedAttachment, _Outcome]]:
    """Each attachment and what came of the work with it; those of a page are worked on `parallel` at a time.

    Raises:
        OrthancUnavailable: the index cannot be asked.
        Exception: what `work` raises.
    """
    with ThreadPoolExecutor(parallel, thread_name_prefix="attachments") as pool:
        for page in indexed(index, step, on_progress):
            yield from zip(page, pool.map(work, page), strict=True)
