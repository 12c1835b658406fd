"""Threads that empty the spool into the bucket, for ever."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from backend.transfer.attachment_upload import AttachmentUpload
from backend.transfer.availability import PUT, Availability
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.pending_queue import PendingQueue

log = logging.getLogger(__name__)

_LOOK_UP: Final = 1.0  # seconds between two looks whether to stop, while uploads are paused


class Uploader:
    """`threads` uploads at a time, oldest first."""

    def __init__(self, queue: PendingQueue, upload: AttachmentUpload, availability: Availability, threads: int) -> None:
        self._queue = queue
        self._upload = upload
        self._availability = availability
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"upload-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped.set()
        self._queue.stop()

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the uploads that are running."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._availability.wait(PUT, _LOOK_UP):
                continue
            name = self._queue.take()
            if name is not None:
                self._work(name)

    def _work(self, name: str) -> None:
        try:
            has_left = self._upload.upload_pending(name)
        except ObjectStoreError as error:
            if not error.concerns_all:
                log.warning("upload_failed name=%s reason=%s", name, error)
            self._queue.postpone(name, is_to_blame=not error.concerns_all)
        except Exception as error:  # noqa: BLE001 - a mistake with one attachment must not end uploads
            log.error("upload_failed name=%s reason=%r", name, error)  # noqa: TRY400 - one line per event
            self._queue.postpone(name, is_to_blame=True)
        else:
            (self._queue.finish if has_left else self._queue.leave)(name)
