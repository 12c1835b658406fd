"""A small object put, read back and deleted: proof that bucket, credentials and network do what attachments need.

Its key is the same each time for one spool, so that a refused delete leaves one object behind, not many.
"""

from __future__ import annotations

import logging
import socket
import threading
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Final

from backend.transfer.availability import Availability, ObservedObjectStore
from backend.transfer.back_off import back_off
from backend.transfer.object_store.errors import AccessDenied, BucketMissing, ObjectCorrupted
from backend.transfer.object_store.protocols import CreateBucket, VerifiesChecksums

log = logging.getLogger(__name__)

_CONTENT: Final = b"Isen checks that it can write, read and delete here. This object may be deleted.\n"
_FIRST_PAUSE: Final = 0.5  # seconds
_LONGEST_PAUSE: Final = 10.0  # seconds; a store that is back is noticed within this time
_LONGEST_PAUSE_REFUSED: Final = 60.0  # seconds; somebody must change something first


def canary_key(root_path: str, spool: Path) -> str:
    """The canary's key; other nodes and other spools have others."""
    name = "isen-canary-" + sha256(f"{socket.gethostname()}:{spool}".encode()).hexdigest()[:16]
    return f"{root_path}/{name}" if root_path else name


class Canary:
    """Tries the object store the way attachments use it."""

    def __init__(
        self,
        key: str,
        *,
        writes: ObservedObjectStore,
        reads: ObservedObjectStore,
        bucket: CreateBucket | None,
        checksums: VerifiesChecksums,
    ) -> None:
        """`bucket` is given if a missing one is to be created; `checksums` is the store below `writes`."""
        self._checksums = checksums
        self.verifies_checksums: bool | None = None  # None: not known yet
        self._key = key
        self._writes = writes
        self._reads = reads
        self._bucket = bucket

    def check(self) -> None:
        """Put, get and delete the canary. A refused delete is not an error here: images can be stored and read.

        It also finds out whether the server, which may be another one after trouble, verifies checksums: then uploads
        need no other proof.

        Raises:
            ObjectStoreError: which operation failed and why.
        """
        try:
            self._put()
        except BucketMissing:
            if self._bucket is None:
                raise
            self._bucket.create_bucket()
            log.info("bucket_created")
            self._put()
        with self._reads.get(self._key) as found:
            content = b"".join(found.chunks())
        if content != _CONTENT:
            raise ObjectCorrupted(f"the bucket gives other bytes for {self._key} than were put")
        before, self.verifies_checksums = self.verifies_checksums, self._checksums.verifies_checksums(self._key)
        if self.verifies_checksums is not before:
            proof = "checksum" if self.verifies_checksums else "ETag or reading back"
            log.info("checksums_tried server_verifies=%s proof_of_uploads=%s", self.verifies_checksums, proof)
        try:
            self._writes.delete(self._key)
        except AccessDenied:
            log.debug("canary_left key=%s", self._key)

    def _put(self) -> None:
        self._writes.put(self._key, BytesIO(_CONTENT), len(_CONTENT), sha256(_CONTENT).digest())


class Recovery:
    """Sends the canary while something is paused, with back-off, for ever."""

    def __init__(self, canary: Canary, availability: Availability) -> None:
        self._canary = canary
        self._availability = availability
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="recovery", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            error = self._availability.wait_for_trouble(1.0)
            if error is None:
                failures = 0
                continue
            failures += 1
            cap = _LONGEST_PAUSE if error.retry_helps else _LONGEST_PAUSE_REFUSED
            self._stopped.wait(back_off(failures, first=_FIRST_PAUSE, cap=cap))
            try:
                self._canary.check()
            except Exception as failure:  # noqa: BLE001 - this thread must outlive every mistake
                log.debug("canary_failed reason=%s", failure)
