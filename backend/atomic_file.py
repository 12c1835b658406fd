"""Files that appear whole and durable, each with its SHA-256 beside it.

The digest lives in the extended attribute `user.isen.sha256` (32 raw bytes): it is taken from the caller's buffer
before the bytes meet a disk, follows the file through every rename, and leaves the file itself as it is, so that an
operator can copy it out of the spool with `cp`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Final

from config.folder_format import DIGEST_ATTRIBUTE
from config.whole_writes import write_all

_KEPT_FAILURES: Final = 64


class SyncFailed(OSError):
    """fsync(2) has failed: what was to be made durable may be lost, and asking again would not tell.

    After a failure the kernel counts the pages as clean, so that the next fsync of the same descriptor succeeds. Hence
    it is never asked again: the file is given up.
    """


def write_digest(file: int | Path, digest: bytes) -> None:
    """Attach the SHA-256 (32 bytes); a file system without extended attributes keeps none."""
    try:
        os.setxattr(file, DIGEST_ATTRIBUTE, digest)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def read_digest(file: int | Path) -> bytes | None:
    """The SHA-256 attached to the file, or None if it carries none."""
    try:
        return os.getxattr(file, DIGEST_ATTRIBUTE)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return None
        raise


def write_new(path: str, content: bytes, digest: bytes, *, durable: bool) -> None:
    """Create the file with all of `content`; with `durable`, on stable storage when this returns.

    The directory entry is not yet durable: rename the file, then sync the directory.

    Raises:
        SyncFailed, OSError: the file was not written, and is not there unless it cannot be unlinked either.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_digest(descriptor, digest)
            write_all(descriptor, content)
            if durable:
                # fsync, not fdatasync: the extended attribute must be on the disk too
                _sync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def read_all(descriptor: int) -> bytes:
    """The whole file, in one allocation."""
    return read_part(descriptor, 0, os.fstat(descriptor).st_size)


def read_part(descriptor: int, start: int, end: int) -> bytes:
    """The bytes `start` to `end`, exclusive, or fewer if the file ends before, in one allocation."""
    chunks = []
    while start < end:
        chunk = os.pread(descriptor, end - start, start)
        if not chunk:
            break
        chunks.append(chunk)
        start += len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class DirectorySync:
    """Makes renames in one directory durable; concurrent callers share one fsync.

    Thread-safe. A caller waits for an fsync that began after it called, never for an older one.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the directory with the first sync, and again after one that failed."""
        self._directory = directory
        self._descriptor = -1
        self._changed = threading.Condition()
        self._running = False
        self._started = 0
        self._finished = 0
        self._failures: dict[int, OSError] = {}

    def sync(self) -> None:
        """Return when every entry made before the call is on stable storage.

        Raises:
            SyncFailed: the disk failed; the entries may or may not survive a power cut.
        """
        with self._changed:
            turn = self._started + 1  # an fsync that is already running may have missed our entry
            while self._finished < turn and self._running:
                self._changed.wait()
            leads = self._finished < turn
            if leads:
                self._running = True
                self._started = turn
        if leads:
            self._lead(turn)
        failure = self._failures.get(turn)
        if failure is not None:
            raise SyncFailed(failure.errno, failure.strerror, str(self._directory))

    def close(self) -> None:
        """Let go of the directory; the next sync opens it again. For whoever leads, or is alone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lead(self, turn: int) -> None:
        failure = None
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(self._descriptor)
        except OSError as error:
            failure = error
            self._give_up_descriptor()
        with self._changed:
            if failure is not None:
                self._failures[turn] = failure
                self._failures.pop(turn - _KEPT_FAILURES, None)
            self._finished = turn
            self._running = False
            self._changed.notify_all()

    def _give_up_descriptor(self) -> None:
        try:
            self.close()
        except OSError:
            self._descriptor = -1  # Linux has closed it all the same


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror) from None
