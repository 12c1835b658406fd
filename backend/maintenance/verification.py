"""`isen verify`: the index, then the bucket's listing beside it, and a second look at whatever does not fit.

Orthanc goes on working meanwhile, so the two lists never are of the same moment. The order makes each verdict safe:

* missing: not in the spool, then not in the bucket, then still in the index. What left the spool is in the bucket;
  what left the bucket had left the index before. All of it twice: another Orthanc may be uploading it.
* orphaned: older than the grace period before the index was read, so its row had long been written; and when the
  removals under way, this node's or another's, have had their time: no tombstone, then still in the bucket.
* HybridMode: a file in StorageDirectory is looked for before the object, because files go once the object is there.
* other size, other bytes: still in the index. An attachment never changes; a new one has a new name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from backend.maintenance.catalogue import Catalogue
from backend.maintenance.content import compare
from backend.maintenance.findings import Counts, Finding, Kind
from backend.maintenance.index import IndexedAttachment
from backend.maintenance.local import Place
from backend.maintenance.patience import patiently
from backend.maintenance.progress import Progress, indexed
from backend.maintenance.set_up import DEFAULT_PARALLEL, Archive
from backend.maintenance.verdict import Verdict, Window, side_by_side
from backend.transfer.object_store.errors import (
    AccessDenied,
    ObjectArchived,
    ObjectCorrupted,
    ObjectMissing,
    ObjectOfAnotherKey,
    ObjectUnencrypted,
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
    settle: float = 30.0  # seconds that uploads and removals under way may take, before anything is called wrong
    parallel: int = DEFAULT_PARALLEL
    bucket_only: bool = False  # what only StorageDirectory has is missing: the list of what a migration has to do


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
        self._files_count = archive.is_hybrid and not options.bucket_only
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
            window = Window(pool, self._options.parallel * _IN_FLIGHT, self._take)
            try:
                self._compare(window, sample, started - self._options.grace)
                window.drain()
                self._settle()
                self._judge_doubts(window)
                window.drain()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._look_for_stale_uploads(started - self._options.grace)

    def _read_index(self) -> None:
        for attachments in indexed(self._archive.index, "Reading the index", self._on_progress):
            self._catalogue.add(attachments)
        self.counts.attachments = len(self._catalogue)

    def _compare(self, window: Window, sample: set[str], orphans_before: float) -> None:
        """Walk through index and listing side by side; both are in the order of the names."""
        seen = 0
        listing = self._archive.store.list(self._archive.naming.prefix)
        for attachment, listed in side_by_side(self._catalogue.attachments(), self._ours(listing)):
            if attachment is None:
                if listed is not None and listed.modified < orphans_before:
                    self._catalogue.suspect(listed)
                else:
                    self.counts.young += 1
                continue
            if self._files_count:
                window.submit(partial(self._judge_file, attachment, is_read=self._is_read(attachment, sample)))
            judge = self._judge(attachment, listed, sample)
            if judge is not None:
                window.submit(partial(judge, attachment))
            seen += 1
            if seen % _PROGRESS == 0:
                self._on_progress(Progress("Comparing the bucket", seen, self.counts.attachments))
        self._on_progress(Progress("Comparing the bucket", seen, self.counts.attachments))

    def _judge(
        self, attachment: IndexedAttachment, listed: ListedObject | None, sample: set[str]
    ) -> Callable[[IndexedAttachment], Verdict] | None:
        """Which second look an attachment needs, if any."""
        if listed is None:
            return self._judge_absent
        if not listed.may_hold(attachment.size):
            return self._judge_size
        if self._is_read(attachment, sample):
            return self._judge_bytes
        if listed.size != attachment.size:
            return None  # encrypted by Isen: its ETag is not that of the attachment
        # The ETag is the bytes' MD5, unless the object was made of parts ("…-2") or encrypted by KMS.
        is_other = len(listed.etag) == 32 and bool(attachment.md5) and listed.etag != attachment.md5
        return self._judge_suspicious if is_other and self._etag_is_md5 else None

    def _is_read(self, attachment: IndexedAttachment, sample: set[str]) -> bool:
        return self._options.read_data or attachment.name in sample

    def _ours(self, listing: Iterator[ListedObject]) -> Iterator[ListedObject]:
        for listed in listing:
            if self._archive.naming.name(listed.key) is None:
                self.counts.foreign += 1
                continue
            self.counts.objects += 1
            self.counts.object_bytes += listed.size
            yield listed

    def _judge_absent(self, attachment: IndexedAttachment) -> Verdict:
        local, name = self._archive.local, attachment.name
        if local.has(name, Place.PENDING, Place.INCOMING):
            return Verdict(pending=1)
        file = local.find(name, Place.STORAGE_DIRECTORY) if self._files_count else None
        try:
            size = patiently(lambda: self._archive.store.head(self._archive.naming.key(name))).size
        except (ObjectOfAnotherKey, ObjectUnencrypted, ObjectCorrupted):
            return self._judge_size(attachment)
        except ObjectMissing:
            if file and file.size == attachment.size:
                return Verdict(only_in_file_system=1)
            if not self._archive.index.refers_to(attachment.name, attachment.path):
                return Verdict()
            return Verdict(doubt=attachment)
        return Verdict() if size == attachment.size else self._judge_size(attachment)

    def _judge_size(self, attachment: IndexedAttachment) -> Verdict:
        try:
            size = patiently(lambda: self._archive.store.head(self._archive.naming.key(attachment.name))).size
        except ObjectMissing:
            return self._judge_absent(attachment)
        except (ObjectOfAnotherKey, ObjectUnencrypted) as error:
            return self._finding(Kind.UNREADABLE, attachment, str(error))
        except ObjectCorrupted as error:
            return self._finding(Kind.CORRUPTED, attachment, str(error))
        if size == attachment.size or not self._archive.index.refers_to(attachment.name, attachment.path):
            return Verdict()
        found = f"the object has {size} bytes; the index says {attachment.size}"
        return self._finding(Kind.TRUNCATED, attachment, found)

    def _judge_bytes(self, attachment: IndexedAttachment) -> Verdict:
        key = self._archive.naming.key(attachment.name)
        try:
            wrong = patiently(lambda: compare(self._archive.store, key, attachment.size, attachment.md5))
        except ObjectMissing:
            return self._judge_absent(attachment)
        except ObjectArchived:
            return Verdict(archived=1)
        except (ObjectOfAnotherKey, ObjectUnencrypted) as error:
            return self._finding(Kind.UNREADABLE, attachment, str(error))
        except (ObjectCorrupted, ServerFailed) as error:
            wrong = str(error)
        if wrong is None or not self._archive.index.refers_to(attachment.name, attachment.path):
            return Verdict(read=1, read_bytes=attachment.size)
        verdict = self._finding(Kind.CORRUPTED, attachment, wrong)
        return Verdict(read=1, read_bytes=attachment.size, finding=verdict.finding)

    def _judge_file(self, attachment: IndexedAttachment, *, is_read: bool) -> Verdict:
        """Whether the file in StorageDirectory is what was stored; it need not exist."""
        file = self._archive.local.find(attachment.name, Place.STORAGE_DIRECTORY)
        if file is None:
            return Verdict()
        is_read = is_read and bool(attachment.md5 or file.digest)
        if file.size != attachment.size:
            wrong = f"{file.path} has {file.size} bytes; the index says {attachment.size}"
        else:
            try:
                if not is_read or file.holds(attachment.size, attachment.md5):
                    return Verdict(read=int(is_read), read_bytes=file.size * is_read)
            except FileNotFoundError:
                return Verdict()  # migrated or removed meanwhile
            wrong = f"{file.path} has other bytes than were stored"
        if not self._archive.index.refers_to(attachment.name, attachment.path):
            return Verdict()
        return self._finding(Kind.DAMAGED_FILE, attachment, wrong)

    def _judge_suspicious(self, attachment: IndexedAttachment) -> Verdict:
        verdict = self._judge_bytes(attachment)
        if verdict.finding is None and verdict.read:
            self._etag_is_md5 = False
        return verdict

    def _settle(self) -> None:
        """What began before the index was read may still be under way: give it its time, if anything depends on it."""
        if not any(self._catalogue.suspects()) and not any(self._catalogue.doubts()):
            return
        end = time.monotonic() + self._options.settle
        while (left := end - time.monotonic()) > 0:
            self._on_progress(Progress(f"Waiting {left:.0f} s for what is under way", 0, 0))
            time.sleep(min(left, _SETTLE_STEP))

    def _judge_doubts(self, window: Window) -> None:
        for attachment in self._catalogue.doubts():
            window.submit(partial(self._judge_missing, attachment))
        for listed in self._catalogue.suspects():
            window.submit(partial(self._judge_orphan, listed))

    def _judge_missing(self, attachment: IndexedAttachment) -> Verdict:
        verdict = self._judge_absent(attachment)
        if verdict.doubt is None:
            return verdict
        if self._archive.local.has(attachment.name, Place.QUARANTINE):
            return self._finding(Kind.QUARANTINED, attachment, "was damaged in the spool, and never uploaded")
        has_copy = self._archive.local.has(attachment.name, Place.CACHE)
        found = "has no object" + ("; the read cache has a copy" if has_copy else "")
        return self._finding(Kind.MISSING, attachment, found)

    def _judge_orphan(self, listed: ListedObject) -> Verdict:
        name = self._archive.naming.name(listed.key) or ""
        if self._archive.local.has(name, Place.TOMBSTONE, Place.PENDING, Place.INCOMING):
            return Verdict(removed=1)
        try:
            size = patiently(lambda: self._archive.store.head(listed.key)).size
        except ObjectMissing:
            return Verdict(removed=1)
        except (ObjectOfAnotherKey, ObjectUnencrypted, ObjectCorrupted):
            size = listed.size
        found = "no attachment of the index has this object"
        return Verdict(finding=Finding(Kind.ORPHANED, name, listed.key, found, size=size))

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

    def _finding(self, kind: Kind, attachment: IndexedAttachment, found: str) -> Verdict:
        key = self._archive.naming.key(attachment.name)
        return Verdict(
            finding=Finding(
                kind, attachment.name, key, found, attachment.path, size=attachment.size, md5=attachment.md5
            )
        )

    def _take(self, verdict: Verdict) -> None:
        counts = self.counts
        counts.pending += verdict.pending
        counts.removed += verdict.removed
        counts.read += verdict.read
        counts.read_bytes += verdict.read_bytes
        counts.archived += verdict.archived
        counts.only_in_file_system += verdict.only_in_file_system
        if verdict.doubt is not None:
            self._catalogue.doubt(verdict.doubt)
        if verdict.finding is not None:
            self._catalogue.found(verdict.finding)


def _ago(moment: float) -> str:
    hours = (time.time() - moment) / 3600
    return f"{hours:.0f} h ago" if hours >= 1 else f"{hours * 60:.0f} min ago"
