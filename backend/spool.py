"""Durable spool: attachments that Orthanc believes stored and S3 does not hold yet.

An attachment is *accepted* once its bytes and its directory entry are on stable storage. From then on a crash, a
power cut or a day without S3 loses nothing. The directory listing is the queue; there is no index that could disagree.

    lock                 held by the one Orthanc that owns this folder, and by its transfer process
    incoming/<name>      being written, or waiting for S3's answer (Durability ObjectStore); swept by `recover`
    pending/<name>       accepted, owed to S3; the transfer process renames it into the cache afterwards
    uploaded/<name>      in S3 and the cache now; kept for a minute, because the index may lose its row in a power cut
    tombstones/<name>    removed by Orthanc, at the file's mtime; the object is still to be deleted
    removed/<name>       the object is deleted too; kept for minutes, because its row may come back in a power cut
    quarantine/<name>    no longer the bytes that were accepted; never uploaded, an operator must look

Why write, fsync, rename, fsync of the directory: rename(2) is atomic but is not ordered after the write, see
"Crash safety" in ARCHITECTURE.md.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

from backend.atomic_file import DirectorySync, write_new

FOLDERS: Final = ("incoming", "pending", "uploaded", "tombstones", "removed", "quarantine")


class SpoolError(Exception):
    """The spool cannot do what was asked; nothing is half done."""


class SpoolFull(SpoolError):
    """The attachment does not fit; transient, the sender may try again."""


class SpoolInUse(SpoolError):
    """Another Orthanc owns this folder."""


class Spool:
    """Accepts attachments durably, and their removals.

    Thread-safe for distinct names, which Orthanc guarantees. One owner only: `lock`.
    """

    def __init__(self, directory: Path, maximum_size: int) -> None:
        """`maximum_size` is in bytes; the folders are made if they are missing."""
        for folder in FOLDERS:
            (directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.maximum_size = maximum_size
        self._incoming = directory / "incoming"
        self._pending = directory / "pending"
        # text for what happens with every image, under the GIL: path objects showed in its profile
        self._in_incoming, self._in_pending, self._in_tombstones = (
            f"{directory}/{folder}/" for folder in ("incoming", "pending", "tombstones")
        )
        self._pending_sync = DirectorySync(self._pending)
        self._tombstones_sync = DirectorySync(directory / "tombstones")
        self._account = threading.Lock()
        self._accepted = 0  # bytes in incoming and pending at the last count, and accepted since
        self._released = 0  # bytes that the transfer process has taken out since then

    def lock(self, patience: float) -> int:
        """Become the owner; the descriptor holds the lock as long as any process has it open.

        Waits up to `patience` seconds: the transfer process of an Orthanc that was killed ends a moment later.

        Raises:
            SpoolInUse: another Orthanc holds it.
        """
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise SpoolInUse(f"{self.directory} belongs to another Orthanc that is running") from None
                time.sleep(0.05)
            else:
                return descriptor

    def recover(self) -> int:
        """Drop what was never acknowledged and count what is owed; lists the folders once.

        Returns the number of pending attachments.
        """
        for entry in os.scandir(self._incoming):
            os.unlink(entry.path)
        self.recount()
        return sum(1 for _ in os.scandir(self._pending))

    def recount(self) -> None:
        """Measure again what the spool holds; stores wait meanwhile. For when the transfer process has restarted."""
        with self._account:
            self._accepted = _bytes_below(self._incoming) + _bytes_below(self._pending)
            self._released = 0

    def released(self, total: int) -> None:
        """The transfer process says how many bytes it has taken out since it started."""
        with self._account:
            self._released = total

    @property
    def used(self) -> int:
        """Bytes that are in the spool at most."""
        return self._accepted - self._released

    def accept(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        """Store `content` so that it survives a power cut, then return. Constant time.

        `digest` is its SHA-256 if it is known already.

        Raises:
            SpoolFull: nothing was written.
            OSError: the disk failed; nothing is pending under this name.
        """
        self.stage(name, content, digest, durable=True)
        try:
            os.rename(self._in_incoming + name, self._in_pending + name)
            self._pending_sync.sync()
        except BaseException:
            (self._pending / name).unlink(missing_ok=True)
            self.discard(name, len(content))
            raise

    def stage(self, name: str, content: bytes, digest: bytes | None = None, *, durable: bool = False) -> None:
        """Write `content` to `incoming`, where a restart drops it. Constant time.

        Raises:
            SpoolFull: nothing was written.
            OSError: the disk failed; nothing was written.
        """
        self._reserve(len(content))
        try:
            write_new(self._in_incoming + name, content, digest or sha256(content).digest(), durable=durable)
        except BaseException:
            self._give_back(len(content))
            raise

    def discard(self, name: str, size: int) -> None:
        """Forget a staged attachment of `size` bytes."""
        (self._incoming / name).unlink(missing_ok=True)
        self._give_back(size)

    def confirmed(self, size: int) -> None:
        """A staged attachment of `size` bytes has left the spool: S3 holds it."""
        self._give_back(size)

    def bury(self, name: str) -> None:
        """Note durably that Orthanc has removed this attachment, then return; the object is deleted later.

        Raises:
            OSError: the disk failed; the removal may be forgotten.
        """
        descriptor = os.open(self._in_tombstones + name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        self._tombstones_sync.sync()

    def open(self, name: str) -> int | None:
        """A read-only descriptor of a pending attachment, or None if it is not pending."""
        try:
            return os.open(self._in_pending + name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _reserve(self, size: int) -> None:
        with self._account:
            if self._accepted - self._released + size > self.maximum_size:
                raise SpoolFull(
                    f"the spool holds {self._accepted - self._released} of {self.maximum_size} bytes and cannot take "
                    f"{size} more until S3 has taken some; see Isen.Storage.MaximumSpoolSizeMB"
                )
            self._accepted += size

    def _give_back(self, size: int) -> None:
        with self._account:
            self._accepted -= size


def _bytes_below(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        try:
            total += entry.stat().st_size
        except FileNotFoundError:
            continue  # the transfer process has just taken it
    return total
