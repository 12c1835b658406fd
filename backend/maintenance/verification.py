"""`isen verify`: the index, then the bucket's listing beside it, and a second look at whatever does not fit.

Orthanc goes on working meanwhile, so the two lists never are of the same moment. The order makes each verdict safe:

* missing: not in the spool, then not in the bucket, then still in the index. What left the spool is in the bucket;
  what left the bucket had left the index before.
* orphaned: older than the grace period before the index was read, so its row had long been written; and when the
  removals under way have had their time: no tombstone, then still in the bucket.
* other size, other bytes: still in the index. An attachment never changes; a new one has a new name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from backend.maintenance.catalogue import Catalogue
from backend.maintenance.content import compare
from backend.maintenance.findings import Counts, Finding, Kind
from backend.maintenance.index import IndexedAttachment
from backend.maintenance.local import Place
from backend.maintenance.patience import patiently
from backend.maintenance.set_up import DEFAULT_PARALLEL, Archive
from backend.transfer.object_store.errors import (
    AccessDenied,
    ObjectArchived,
    ObjectCorrupted,
    ObjectMissing,
    RequestRefused,
    ServerFailed,
)
from backend.transfer.object_store.protocols import ListedObject

_IN_FLIGHT: Final = 4  # judgements waiting, for each thread
_SETTLE_STEP: Final = 0.2  # seconds
_PROGRESS: Final = 100  # attachments between two reports


@dataclass(frozen=True)
class Options:
    """What to look at, and how hard."""

    read_data: bool = False  # read every object
    sample: int = 0  # read so many objects, drawn at random
    grace: float = 86400.0  # seconds; what is younger is neither orphaned nor stale
    settle: float = 30.0  # seconds a removal under way may take, before an orphan is called one
    parallel: int = DEFAULT_PARALLEL


@dataclass(frozen=True)
class Progress:
    """How far verification is; `total` is 0 where it is not known."""

    step: str
    done: int
    total: int


class Verification:
    """One run; for one thread."""

    def __init__(
        self, archive: Archive, catalogue: Catalogue, options: Options, on_progress: Callable[[Progress], None]
    ) -> None:
        """`catalogue` takes the findings; it is empty, and the caller closes it."""
        self.counts = Counts()
        self.notes: list[str] = []  # what could not be looked at
        self._archive = archive
        self._catalogue = catalogue
        self._options = options
        self._on_progress = on_progress
        self._etag_is_md5 = True  # until a sound object shows otherwise: encryption by KMS, another server

    def run(self) -> None:
        """Look at everything.

        Raises:
            OrthancUnavailable, ObjectStoreError, OSError: it could not be finished.
        """
        started = time.time()
        self._read_index()
        sample = self._catalogue.sample(self._options.sample) if self._options.sample else set()
        with ThreadPoolExecutor(self._options.parallel, thread_name_prefix="verify") as pool:
            window = _Window(pool, self._options.parallel * _IN_FLIGHT, self._take)
            try:
                self._compare(window, sample, started - self._options.grace)
                window.drain()
                self._judge_orphans(window)
                window.drain()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._look_for_stale_uploads(started - self._options.grace)

    def _read_index(self) -> None:
        total, done = self._archive.index.count(), 0
        for resources, attachments in self._archive.index.attachments():
            self._catalogue.add(attachments)
            done += resources
            self._on_progress(Progress("Reading the index", done, max(total, done)))
        self.counts.attachments = len(self._catalogue)

    def _compare(self, window: _Window, sample: set[str], orphans_before: float) -> None:
        """Walk through index and listing side by side; both are in the order of the names."""
        seen = 0
        listing = self._archive.store.list(self._archive.naming.prefix)
        for attachment, listed in _side_by_side(self._catalogue.attachments(), self._ours(listing)):
            if attachment is None:
                if listed is not None and listed.modified < orphans_before:
                    self._catalogue.suspect(listed)
                else:
                    self.counts.young += 1
                continue
            judge = self._judge(attachment, listed, sample)
            if judge is not None:
                window.submit(partial(judge, attachment))
            seen += 1
            if seen % _PROGRESS == 0:
                self._on_progress(Progress("Comparing the bucket", seen, self.counts.attachments))
        self._on_progress(Progress("Comparing the bucket", seen, self.counts.attachments))

    def _judge(
        self, attachment: IndexedAttachment, listed: ListedObject | None, sample: set[str]
    ) -> Callable[[IndexedAttachment], _Verdict] | None:
        """Which second look an attachment needs, if any."""
        if listed is None:
            return self._judge_absent
        if listed.size != attachment.size:
            return self._judge_size
        if self._options.read_data or attachment.name in sample:
            return self._judge_bytes
        # The ETag is the bytes' MD5, unless the object was made of parts ("…-2") or encrypted by KMS.
        is_other = len(listed.etag) == 32 and bool(attachment.md5) and listed.etag != attachment.md5
        return self._judge_suspicious if is_other and self._etag_is_md5 else None

    def _ours(self, listing: Iterator[ListedObject]) -> Iterator[ListedObject]:
        for listed in listing:
            if self._archive.naming.name(listed.key) is None:
                self.counts.foreign += 1
                continue
            self.counts.objects += 1
            self.counts.object_bytes += listed.size
            yield listed

    def _judge_absent(self, attachment: IndexedAttachment) -> _Verdict:
        local, name = self._archive.local, attachment.name
        if local.has(name, Place.PENDING, Place.INCOMING):
            return _Verdict(pending=1)
        try:
            size = patiently(lambda: self._archive.store.head(self._archive.naming.key(name))).size
        except ObjectMissing:
            if not self._archive.index.refers_to(attachment.name, attachment.path):
                return _Verdict()
            if local.has(name, Place.QUARANTINE):
                return self._finding(Kind.QUARANTINED, attachment, "was damaged in the spool, and never uploaded")
            has_copy = local.has(name, Place.CACHE)
            return self._finding(
                Kind.MISSING, attachment, "has no object" + ("; the read cache has a copy" if has_copy else "")
            )
        return _Verdict() if size == attachment.size else self._judge_size(attachment)

    def _judge_size(self, attachment: IndexedAttachment) -> _Verdict:
        try:
            size = patiently(lambda: self._archive.store.head(self._archive.naming.key(attachment.name))).size
        except ObjectMissing:
            return self._judge_absent(attachment)
        if size == attachment.size or not self._archive.index.refers_to(attachment.name, attachment.path):
            return _Verdict()
        found = f"the object has {size} bytes; the index says {attachment.size}"
        return self._finding(Kind.TRUNCATED, attachment, found)

    def _judge_bytes(self, attachment: IndexedAttachment) -> _Verdict:
        key = self._archive.naming.key(attachment.name)
        try:
            wrong = patiently(lambda: compare(self._archive.store, key, attachment.size, attachment.md5))
        except ObjectMissing:
            return self._judge_absent(attachment)
        except ObjectArchived:
            return _Verdict(archived=1)
        except (ObjectCorrupted, ServerFailed) as error:
            wrong = str(error)
        if wrong is None or not self._archive.index.refers_to(attachment.name, attachment.path):
            return _Verdict(read=1, read_bytes=attachment.size)
        verdict = self._finding(Kind.CORRUPTED, attachment, wrong)
        return _Verdict(read=1, read_bytes=attachment.size, finding=verdict.finding)

    def _judge_suspicious(self, attachment: IndexedAttachment) -> _Verdict:
        verdict = self._judge_bytes(attachment)
        if verdict.finding is None and verdict.read:
            self._etag_is_md5 = False
        return verdict

    def _judge_orphans(self, window: _Window) -> None:
        """Removals begun before the index was read may still be under way: give them their time first."""
        end = time.monotonic() + (self._options.settle if any(self._catalogue.suspects()) else 0.0)
        while (left := end - time.monotonic()) > 0:
            self._on_progress(Progress(f"Waiting {left:.0f} s for removals", 0, 0))
            time.sleep(min(left, _SETTLE_STEP))
        for listed in self._catalogue.suspects():
            window.submit(partial(self._judge_orphan, listed))

    def _judge_orphan(self, listed: ListedObject) -> _Verdict:
        name = self._archive.naming.name(listed.key) or ""
        if self._archive.local.has(name, Place.TOMBSTONE, Place.PENDING, Place.INCOMING):
            return _Verdict(removed=1)
        try:
            now = patiently(lambda: self._archive.store.head(listed.key))
        except ObjectMissing:
            return _Verdict(removed=1)
        found = "no attachment of the index has this object"
        return _Verdict(finding=Finding(Kind.ORPHANED, name, listed.key, found, size=now.size))

    def _look_for_stale_uploads(self, begun_before: float) -> None:
        try:
            for upload in self._archive.store.list_uploads(self._archive.naming.prefix):
                name = self._archive.naming.name(upload.key)
                if name is not None and upload.begun < begun_before:
                    found = f"a multipart upload was begun {_ago(upload.begun)} and never completed"
                    self._catalogue.found(
                        Finding(Kind.STALE_UPLOAD, name, upload.key, found, upload_id=upload.upload_id)
                    )
        except (AccessDenied, RequestRefused, ServerFailed) as error:
            self.notes.append(f"unfinished multipart uploads could not be listed: {error}")

    def _finding(self, kind: Kind, attachment: IndexedAttachment, found: str) -> _Verdict:
        key = self._archive.naming.key(attachment.name)
        return _Verdict(
            finding=Finding(
                kind, attachment.name, key, found, attachment.path, size=attachment.size, md5=attachment.md5
            )
        )

    def _take(self, verdict: _Verdict) -> None:
        counts = self.counts
        counts.pending += verdict.pending
        counts.removed += verdict.removed
        counts.read += verdict.read
        counts.read_bytes += verdict.read_bytes
        counts.archived += verdict.archived
        if verdict.finding is not None:
            self._catalogue.found(verdict.finding)


@dataclass(frozen=True)
class _Verdict:
    """What a second look showed."""

    finding: Finding | None = None
    pending: int = 0
    removed: int = 0
    read: int = 0
    read_bytes: int = 0
    archived: int = 0


class _Window:
    """Runs judgements in a pool, not more at a time than fit; their verdicts are taken by the one thread that asks."""

    def __init__(self, pool: ThreadPoolExecutor, limit: int, take: Callable[[_Verdict], None]) -> None:
        self._pool = pool
        self._limit = limit
        self._take = take
        self._running: deque[Future[_Verdict]] = deque()

    def submit(self, judge: Callable[[], _Verdict]) -> None:
        if len(self._running) >= self._limit:
            self._take(self._running.popleft().result())
        self._running.append(self._pool.submit(judge))

    def drain(self) -> None:
        while self._running:
            self._take(self._running.popleft().result())


def _side_by_side(
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


def _ago(moment: float) -> str:
    hours = (time.time() - moment) / 3600
    return f"{hours:.0f} h ago" if hours >= 1 else f"{hours * 60:.0f} min ago"
