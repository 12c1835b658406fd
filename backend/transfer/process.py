"""The transfer process put together from its parts, in the one place where they are made."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from backend.object_key import object_key
from backend.spool import FOLDERS
from backend.storage_directory import StorageDirectory
from backend.transfer.attachment_upload import AttachmentUpload, StagedUploads
from backend.transfer.availability import Availability, ObservedObjectStore
from backend.transfer.canary import Canary, Recovery, canary_key
from backend.transfer.confirmer import Confirmer
from backend.transfer.counters import Counters
from backend.transfer.deliveries import Deliveries
from backend.transfer.fetcher import Fetcher
from backend.transfer.good_copies import GoodCopies
from backend.transfer.index_guard import IndexGuard, Orthanc
from backend.transfer.kept_names import REMOVED, UPLOADED, KeptNames
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ObjectStoreError, Unreachable
from backend.transfer.object_store.protocols import ObjectStore
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.prefetch_requests import PrefetchRequests
from backend.transfer.prefetcher import Prefetcher
from backend.transfer.read_ahead import ReadAhead
from backend.transfer.read_cache import ReadCache
from backend.transfer.removals import Removals
from backend.transfer.remover import Remover
from backend.transfer.report import ReleasedBytes, Reporter
from backend.transfer.series_index import SeriesIndex
from backend.transfer.server import Server
from backend.transfer.spool_watch import SpoolWatch
from backend.transfer.uploader import Uploader
from config.folder_format import make_durably
from config.settings import HybridMode, StorageSettings, StorageStructure

log = logging.getLogger(__name__)

START_PATIENCE: Final = 3.0  # seconds; Orthanc's start waits, and readers do when this process starts again
DRAIN_TIME: Final = 3.0  # seconds that running uploads have after SIGTERM
_HELD_SHARE: Final = 4  # uploads give way to stores until so much of the spool is taken: a quarter


class CannotStart(Exception):
    """Starting again would not help; the message says what to change."""


class TransferProcess:
    """Everything between the spool and the bucket."""

    def __init__(
        self,
        settings: StorageSettings,
        listener: socket.socket,
        *,
        writes: ObjectStore,
        reads: ObjectStore,
        index: SeriesIndex,
        send_report: Callable[[dict[str, Any]], None],
        orthanc: Orthanc | None = None,
    ) -> None:
        """`writes` uploads and deletes, `reads` downloads: apart, so that neither waits for the other's connections.

        `orthanc` is whose index is asked before anything is deleted.
        """
        self._bucket_name = settings.bucket_name
        self._spool = spool = settings.spool_directory
        for name in FOLDERS:
            make_durably(spool / name)
        storage_directory = StorageDirectory(settings.storage_directory) if settings.storage_directory else None
        key = partial(
            object_key, root_path=settings.root_path, legacy=settings.storage_structure is StorageStructure.LEGACY
        )
        counters = Counters()
        names = NameLocks()
        released = ReleasedBytes()
        self._availability = availability = Availability(self._report_now)
        observed_writes = ObservedObjectStore(writes, availability)
        observed_reads = ObservedObjectStore(reads, availability)
        self._canary = Canary(
            canary_key(settings.root_path, spool),
            writes=observed_writes,
            reads=observed_reads,
            bucket=writes if settings.create_bucket else None,
            checksums=writes,
        )
        self._recovery = Recovery(self._canary, availability)
        self._cache = cache = ReadCache(settings.cache_directory, settings.maximum_cache_size, counters)
        self._maximum_spool_size = settings.maximum_spool_size
        self._queue = queue = PendingQueue(
            spool / "pending", released.add, held_bytes=settings.maximum_spool_size // _HELD_SHARE
        )
        uploaded, removed = (
            KeptNames(spool / "uploaded", UPLOADED, gives_way=True),
            KeptNames(spool / "removed", REMOVED),
        )
        removals = Removals(spool / "tombstones")
        upload = AttachmentUpload(spool, cache, observed_writes, key, uploaded=uploaded, names=names, counters=counters)
        self._uploader = Uploader(queue, upload, availability, settings.concurrent_uploads)
        self._remover = Remover(
            spool,
            cache,
            observed_writes,
            key,
            removals=removals,
            uploaded=uploaded,
            removed=removed,
            names=names,
            availability=availability,
            counters=counters,
            grace_period=settings.removal_grace_period,
            on_dropped=queue.dropped,
            storage_directory=storage_directory,
        )
        self._watch = SpoolWatch(spool, queue, removals, self._remover, (uploaded, removed), make_room=self._make_room)
        good_copies = GoodCopies(spool, observed_writes, key, names=names, counters=counters)
        self._fetcher = fetcher = Fetcher(
            spool,
            cache,
            observed_reads,
            key,
            names=names,
            availability=availability,
            counters=counters,
            concurrent=settings.concurrent_downloads,
            patience=settings.missing_object_patience,
            storage_directory=storage_directory,
            good_copy=good_copies.use,
        )
        self._guard = None
        if orthanc is not None:
            self._guard = IndexGuard(
                settings,
                orthanc,
                self._remover,
                removals,
                reads=observed_reads,
                key=key,
                kept=(uploaded, removed),
                counters=counters,
                put=good_copies.put,
                wake=self._watch.wake,
                on_builtin=queue.give_way,
            )
        legacy = settings.storage_structure is StorageStructure.LEGACY
        self._prefetcher = prefetcher = Prefetcher(
            fetcher, cache, availability=availability, counters=counters, threads=settings.concurrent_downloads
        )
        self._read_ahead = ReadAhead(index, prefetcher, settings.cache_directory, legacy=legacy)
        self._requests = PrefetchRequests(index, prefetcher, availability, legacy=legacy)
        is_leaving = settings.hybrid_mode is HybridMode.WRITE_TO_FILE_SYSTEM  # then nothing is on its way to S3
        confirmer = Confirmer(
            spool,
            settings.cache_directory,
            observed_reads,
            key,
            availability,
            migrating_from=None if is_leaving else storage_directory,
        )
        deliveries = Deliveries(fetcher, prefetcher)
        staged = StagedUploads(upload, availability, settings.concurrent_uploads)
        self._server = Server(
            listener,
            fetch=self._fetch,
            deliver_one=deliveries.one,
            deliver=deliveries.begin,
            fetch_range=fetcher.fetch_range,
            upload=staged.upload,
            wake=self._watch.wake,
            read=partial(self._read_ahead.read, missed=False),
            prefetch=self._requests,
            confirm=confirmer.confirm,
        )
        self._reporter = Reporter(
            send_report,
            spool=spool,
            released=released,
            queue=queue,
            removals=removals,
            guard=self._guard,
            canary=self._canary,
            cache=cache,
            availability=availability,
            counters=counters,
        )

    def prepare(self) -> None:
        """Look over the cache and try the bucket, for `START_PATIENCE` seconds at most.

        Raises:
            CannotStart: the settings must be changed first. A store that is away, or slow, or whose clock differs does
                not keep a node from starting.
        """
        self._cache.recover()
        outcome: SimpleQueue[ObjectStoreError | None] = SimpleQueue()
        threading.Thread(target=lambda: outcome.put(self._try_bucket()), name="first-canary", daemon=True).start()
        try:
            error = outcome.get(timeout=START_PATIENCE)
        except Empty:
            error = Unreachable(f"no answer within {START_PATIENCE:g} s")
        if error is not None and not error.retry_helps:
            raise CannotStart(f"Isen.Storage, bucket {self._bucket_name!r}: {error}") from error
        if error is not None:
            log.warning("object_store_unavailable_at_start reason=%s", error)

    def _try_bucket(self) -> ObjectStoreError | None:
        try:
            self._canary.check()
        except ObjectStoreError as error:
            return error
        return None

    def start(self) -> None:
        """Begin to work; returns at once."""
        self._prefetcher.start()
        self._read_ahead.start()
        self._requests.start()
        self._server.start()
        self._watch.start()
        self._uploader.start()
        self._remover.start()
        self._recovery.start()
        self._reporter.start()

    def orthanc_answers(self) -> None:
        """Orthanc's REST API is up."""
        if self._guard is not None:
            self._guard.start()

    def drain(self) -> None:
        """Begin nothing more and wait a little for the uploads that are running.

        Orthanc need not be at its end: systemd sends SIGTERM to all processes of a service at once.
        """
        self._server.stop()
        if self._guard is not None:
            self._guard.stop()
        self._uploader.stop()
        self._remover.stop()
        self._recovery.stop()
        self._uploader.join(DRAIN_TIME)

    def _fetch(self, name: str) -> int:
        descriptor = self._fetcher.fetch(name)
        self._read_ahead.read(name, missed=True)
        return descriptor

    def _make_room(self) -> None:
        """On a disk that both share, the cache leaves what the spool may still take."""
        with contextlib.suppress(OSError):  # a disk that fails has been told of
            if self._spool.stat().st_dev == self._cache.directory.stat().st_dev:
                self._cache.leave_room(self._maximum_spool_size - self._queue.bytes)

    def _report_now(self) -> None:
        self._reporter.due.set()
