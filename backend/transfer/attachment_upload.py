"""One attachment's way from the spool into the bucket and from there into the read cache.

What keeps it safe: the name is held from the first look at the file to the last, so that a removal comes before or
after; a tombstone is looked for before and after the upload; and the file leaves the spool only when the store has
confirmed its bytes. Killed at any point, it is repeated from the start: same key, same bytes. For a minute afterwards
the file has a second name in `uploaded/`, which no eviction takes away: see `reconciliation`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Final

from backend.atomic_file import read_digest
from backend.cache import cache_path
from backend.transfer.availability import PUT, Availability
from backend.transfer.back_off import back_off
from backend.transfer.counters import Counters
from backend.transfer.kept_names import KeptNames
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ContentChanged, ObjectMissing, ObjectStoreError, Unreachable
from backend.transfer.object_store.protocols import PutObject
from backend.transfer.read_cache import ReadCache

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1  # seconds, while a sender waits
_LONGEST_PAUSE: Final = 2.0


class AttachmentUpload:
    """Uploads attachments by name. Thread-safe."""

    def __init__(
        self,
        spool: Path,
        cache: ReadCache,
        store: PutObject,
        key: Callable[[str], str],
        *,
        uploaded: KeptNames,
        names: NameLocks,
        counters: Counters,
    ) -> None:
        # text for what happens with every image: path objects showed in its profile
        self._pending, self._incoming, self._tombstones, self._quarantine = (
            f"{spool}/{folder}/" for folder in ("pending", "incoming", "tombstones", "quarantine")
        )
        self._uploaded = uploaded
        self._cache = cache
        self._store = store
        self._key = key
        self._names = names
        self._counters = counters
        self._keeps_none = False

    def upload_pending(self, name: str) -> bool:
        """Upload what is owed. Afterwards it is not pending: uploaded or quarantined. False: it has been removed.

        What has been removed is left to the remover: if the index knows it all the same, this is its only copy.

        Raises:
            ObjectStoreError: it is still pending.
            OSError: the local disk failed; it is still pending.
        """
        with self._names.holding(name):
            path = self._pending + name
            if self.is_removed(name):
                return False
            try:
                self._upload(name, path)
            except FileNotFoundError:
                log.warning("pending_vanished name=%s", name)
            except ContentChanged:
                os.rename(path, self._quarantine + name)
                self._counters.add("corrupted")
                log.error("spool_file_corrupted name=%s action=quarantine", name)  # noqa: TRY400 - one line per event
            return True

    def upload_staged(self, name: str) -> None:
        """Upload what a sender waits for; the store has confirmed it when this returns.

        Raises:
            ObjectStoreError, OSError: not confirmed; whoever staged the file discards it.
        """
        with self._names.holding(name):
            try:
                if not self.is_removed(name):
                    self._upload(name, self._incoming + name)
            except FileNotFoundError:
                # an earlier transfer process may have ended between its upload and its answer
                if not (self._uploaded.has(name) or cache_path(self._cache.directory, name).exists()):
                    raise
            if self.is_removed(name):
                raise ObjectMissing(f"{name} was given up while it was uploaded")
            # The name must outlive a power cut, the bytes need not: S3 has them.
            self._uploaded.sync()

    def is_removed(self, name: str) -> bool:
        """Whether Orthanc has removed the attachment."""
        return os.path.exists(self._tombstones + name)

    def _upload(self, name: str, path: str) -> None:
        with open(path, "rb") as content:
            size = os.fstat(content.fileno()).st_size
            digest = read_digest(content.fileno())
            if digest is None:  # a file system without extended attributes
                digest = file_digest(content, "sha256").digest()
            try:
                self._store.put(self._key(name), content, size, digest)
            except ObjectStoreError:
                self._counters.add("upload_failures")
                self._restart_grace(name)
                raise
        self._counters.add("uploads")
        self._counters.add("upload_bytes", size)
        self._keep(name, path)
        self._cache.adopt(name, path, size)
        self._uploaded.expire()  # on a small disk its second name gives way before the spool counts it as gone

    def _keep(self, name: str, path: str) -> None:
        try:
            self._uploaded.link(name, path)
        except FileNotFoundError:
            raise
        except OSError as error:  # a full disk, or a file system without links: the spool must empty all the same
            if not self._keeps_none:
                log.error("uploaded_not_kept reason=%s", error)  # noqa: TRY400 - one line per event
            self._keeps_none = True
        else:
            self._keeps_none = False

    def _restart_grace(self, name: str) -> None:
        """The server may still carry out what it has not confirmed: a removal that waits has to wait from now on."""
        try:
            os.utime(self._tombstones + name)
        except FileNotFoundError:
            pass


class StagedUploads:
    """Uploads while a sender waits (Durability "ObjectStore"), tried again until its time is over."""

    def __init__(self, upload: AttachmentUpload, availability: Availability, concurrent: int) -> None:
        self._upload = upload
        self._availability = availability
        self._slots = threading.Semaphore(concurrent)

    def upload(self, name: str, timeout: float) -> None:
        """Return once the store has confirmed; `timeout` is in seconds.

        Raises:
            ObjectStoreError: not confirmed in time, or refused for good.
            OSError: the local disk failed.
        """
        deadline = time.monotonic() + timeout
        if not self._slots.acquire(timeout=timeout):
            raise Unreachable(f"no upload could begin within {timeout:g} s: too many are waiting for S3")
        try:
            self._attempt(name, deadline)
        finally:
            self._slots.release()

    def _attempt(self, name: str, deadline: float) -> None:
        failures = 0
        while True:
            self._wait(deadline)
            try:
                self._upload.upload_staged(name)
            except ObjectStoreError as error:
                failures += 1
                pause = back_off(failures, first=_FIRST_PAUSE, cap=_LONGEST_PAUSE)
                if not error.retry_helps or time.monotonic() + pause > deadline or self._upload.is_removed(name):
                    raise
                time.sleep(pause)
            else:
                return

    def _wait(self, deadline: float) -> None:
        """While uploads are paused, wait; the deadline ends that with the reason."""
        if not self._availability.wait(PUT, max(0.0, deadline - time.monotonic())):
            error = self._availability.error(PUT)
            if error is not None:
                raise type(error)(str(error))
