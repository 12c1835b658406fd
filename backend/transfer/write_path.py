"""From the spool into the bucket, and what Orthanc has removed out of it: the parts, and how they know each other.

The spool watch finds what is new in the spool's folders. It tells the queue, from which the uploader takes, and the
removals, from which the remover does.
"""

from __future__ import annotations

import contextlib
from typing import Final

from backend.transfer.attachment_upload import AttachmentUpload, StagedUploads
from backend.transfer.kept_names import REMOVED, UPLOADED, KeptNames
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.removals import Removals
from backend.transfer.remover import Remover
from backend.transfer.report import ReleasedBytes
from backend.transfer.shared import Shared
from backend.transfer.spool_watch import SpoolWatch
from backend.transfer.uploader import Uploader

_HELD_SHARE: Final = 4  # uploads give way to stores until so much of the spool is taken: a quarter


class WritePath:
    """What uploads and deletes."""

    def __init__(self, shared: Shared) -> None:
        settings, spool = shared.settings, shared.spool
        self._spool = spool
        self._maximum_spool_size = settings.maximum_spool_size
        self._cache = shared.cache
        self.released = ReleasedBytes()
        self.queue = PendingQueue(
            spool / "pending", self.released.add, held_bytes=settings.maximum_spool_size // _HELD_SHARE
        )
        self.uploaded = KeptNames(spool / "uploaded", UPLOADED, gives_way=True)
        self.removed = KeptNames(spool / "removed", REMOVED)
        self.removals = Removals(spool / "tombstones")
        upload = AttachmentUpload(
            spool,
            shared.cache,
            shared.writes,
            shared.key,
            uploaded=self.uploaded,
            names=shared.names,
            counters=shared.counters,
        )
        self.staged = StagedUploads(upload, shared.availability, settings.concurrent_uploads)
        self._uploader = Uploader(self.queue, upload, shared.availability, settings.concurrent_uploads)
        self.remover = Remover(
            spool,
            shared.cache,
            shared.writes,
            shared.key,
            removals=self.removals,
            uploaded=self.uploaded,
            removed=self.removed,
            names=shared.names,
            availability=shared.availability,
            counters=shared.counters,
            grace_period=settings.removal_grace_period,
            on_dropped=self.queue.dropped,
            storage_directory=shared.storage_directory,
        )
        self.watch = SpoolWatch(
            spool,
            self.queue,
            self.removals,
            self.remover,
            (self.uploaded, self.removed),
            make_room=self._make_room,
        )

    def start(self) -> None:
        self.watch.start()
        self._uploader.start()
        self.remover.start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._uploader.stop()
        self.remover.stop()

    def join(self, timeout: float) -> None:
        """Wait so many seconds, at most, for the uploads that are running."""
        self._uploader.join(timeout)

    def _make_room(self) -> None:
        """On a disk that both share, the cache leaves what the spool may still take."""
        with contextlib.suppress(OSError):  # a disk that fails has been told of
            if self._spool.stat().st_dev == self._cache.directory.stat().st_dev:
                self._cache.leave_room(self._maximum_spool_size - self.queue.bytes)
