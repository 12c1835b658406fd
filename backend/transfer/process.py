"""The transfer process: how its parts are put together, begin and end.

What moves bytes is made in `write_path` and `read_path`; here is what serves both and watches them.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from backend.spool import FOLDERS
from backend.transfer.canary import Canary, Recovery, canary_key
from backend.transfer.index_guard import IndexGuard, Orthanc
from backend.transfer.object_store.errors import ObjectStoreError, Unreachable
from backend.transfer.object_store.protocols import ObjectStore
from backend.transfer.read_path import ReadPath
from backend.transfer.report import Reporter
from backend.transfer.series_index import SeriesIndex
from backend.transfer.server import Server
from backend.transfer.shared import Shared
from backend.transfer.write_path import WritePath
from config.folder_format import make_durably
from config.settings import StorageSettings

log = logging.getLogger(__name__)

START_PATIENCE: Final = 3.0  # seconds; Orthanc's start waits, and readers do when this process starts again
DRAIN_TIME: Final = 3.0  # seconds that running uploads have after SIGTERM


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
        for name in FOLDERS:
            make_durably(settings.spool_directory / name)
        shared = Shared.of(settings, writes=writes, reads=reads, on_change=self._report_now)
        self._cache = shared.cache
        self._write = write = WritePath(shared)
        self._read = read = ReadPath(shared, index)
        self._guard = _guard(orthanc, shared, write, read) if orthanc is not None else None
        self._server = _server(listener, write, read)
        self._canary = Canary(
            canary_key(settings.root_path, settings.spool_directory),
            writes=shared.writes,
            reads=shared.reads,
            bucket=writes if settings.create_bucket else None,
            checksums=writes,
        )
        self._recovery = Recovery(self._canary, shared.availability)
        self._reporter = Reporter(
            send_report,
            spool=settings.spool_directory,
            released=write.released,
            queue=write.queue,
            removals=write.removals,
            guard=self._guard,
            canary=self._canary,
            cache=shared.cache,
            availability=shared.availability,
            counters=shared.counters,
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
        self._read.start()
        self._server.start()
        self._write.start()
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
        self._write.stop()
        self._recovery.stop()
        self._write.join(DRAIN_TIME)

    def _report_now(self) -> None:
        self._reporter.due.set()


def _guard(orthanc: Orthanc, shared: Shared, write: WritePath, read: ReadPath) -> IndexGuard:
    return IndexGuard(
        shared.settings,
        orthanc,
        write.remover,
        write.removals,
        reads=shared.reads,
        key=shared.key,
        kept=(write.uploaded, write.removed),
        counters=shared.counters,
        put=read.good_copies.put,
        wake=write.watch.wake,
        on_builtin=write.queue.give_way,
    )


def _server(listener: socket.socket, write: WritePath, read: ReadPath) -> Server:
    return Server(
        listener,
        fetch=read.fetch,
        deliver_one=read.deliveries.one,
        deliver=read.deliveries.begin,
        fetch_range=read.fetcher.fetch_range,
        upload=write.staged.upload,
        wake=write.watch.wake,
        read=partial(read.read_ahead.read, missed=False),
        prefetch=read.prefetch_requests,
        confirm=read.confirmer.confirm,
    )
