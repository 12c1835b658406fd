"""Durable spool: attachments that Orthanc believes stored and S3 does not hold yet.

An attachment is *accepted* once its bytes and its directory entry are on stable storage. From then on a crash, a
power cut or a day without S3 loses nothing. The directory listing is the queue; there is no index that could disagree.

    lock                 held by the one Orthanc that owns this folder, and by its transfer process
    incoming/<name>      being written, or waiting for S3's answer (Durability ObjectStore); swept by `recover`
    pending/<name>       accepted, owed to S3; the transfer process renames it into the cache afterwards
    uploaded/<name>      in S3 and the cache now; kept for a minute, because the index may lose its row in a power cut
    tombstones/<name>    removed by Orthanc, at the file's mtime; the object is still to be deleted. Not empty: Orthanc
                         may refer to it all the same
    removed/<name>       the object is deleted too; kept for minutes, because its row may come back in a power cut
    quarantine/<name>    no longer the bytes that were accepted; never uploaded, an operator must look
    arriving/<other>     copies that DICOM workers make of what Orthanc is about to store; swept by `recover`

Why write, fsync, rename, fsync of the directory: rename(2) is atomic but is not ordered after the write, see
"Crash safety" in ARCHITECTURE.md.

The spool is *suspect* once fsync has failed some times in a row: its disk may be losing what it confirms. It takes
nothing then until a file written for that purpose could be synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

from backend.arrivals import take_arrival
from backend.atomic_file import DirectorySync, write_new
from backend.disk_health import DiskHealth, Log
from backend.spool_account import SpoolAccount
from config.arrival import ARRIVING, sweep_arrivals
from config.folder_format import make_durably

FOLDERS: Final = (ARRIVING, "incoming", "pending", "uploaded", "tombstones", "removed", "quarantine")
IN_DOUBT: Final = b"in doubt\n"  # content of a tombstone
REPLACED_BY: Final = "user.isen.replaced-by"  # attribute of a tombstone: a name
_MAXIMUM_UNBURIED: Final = 100_000  # names kept in memory while the disk takes no tombstones


def _silent(_line: str) -> None:
    pass


class SpoolError(Exception):
    """The spool cannot do what was asked; nothing is half done."""


class SpoolFull(SpoolError):
    """The attachment does not fit; transient, the sender may try again."""


class SpoolSuspect(SpoolError):
    """The disk has failed to sync too often; transient if the disk is mended."""


class SpoolInUse(SpoolError):
    """Another Orthanc owns this folder."""


class Spool:
    """Accepts attachments durably, and their removals.

    Thread-safe for distinct names, which Orthanc guarantees. One owner only: `lock`.
    """

    def __init__(
        self, directory: Path, maximum_size: int, *, log_error: Log = _silent, log_warning: Log = _silent
    ) -> None:
        """`maximum_size` is in bytes; the folders are made if they are missing."""
        for name in FOLDERS:
            make_durably(directory / name)
        self.directory = directory
        self.maximum_size = maximum_size
        self._log_error = log_error
        self._folder = str(directory)
        # text for what happens with every image, under the GIL: path objects showed in its profile
        self._incoming, self._pending, self._tombstones = (
            f"{directory}/{folder}/" for folder in ("incoming", "pending", "tombstones")
        )
        self._pending_sync = DirectorySync(Path(self._pending))
        self._tombstones_sync = DirectorySync(Path(self._tombstones))
        self._account = SpoolAccount(Path(self._pending))
        self.health = DiskHealth(Path(self._incoming), log_error=log_error, log_warning=log_warning)
        self._tending = threading.Lock()
        self._unswept: set[str] = set()  # in incoming, forgotten, but could not be unlinked
        self._unburied: dict[str, bool] = {}  # removed, but without a durable tombstone; whether it is in doubt

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

    def end_in_order(self) -> None:
        """Orthanc has closed its index: whatever happens to the machine now, no row is lost (`transfer.power_cut`)."""
        with contextlib.suppress(OSError):  # then the next start looks for what is missing, and finds nothing
            os.unlink(f"{self._folder}/running")

    def recover(self) -> int:
        """Drop what was never acknowledged and count what is owed; lists the folders once.

        Returns the number of pending attachments.
        """
        for entry in os.scandir(self._incoming):
            os.unlink(entry.path)
        sweep_arrivals(self._folder)
        self.recount()
        return sum(1 for _ in os.scandir(self._pending))

    def recount(self) -> None:
        """Measure again what the spool holds; stores wait meanwhile. For when the transfer process has ended."""
        try:
            self._account.recount()
        except OSError as error:
            self._log_error(f"spool_unreadable folder={self._pending} reason={error}")

    def released(self, total: int) -> None:
        """The transfer process says how many bytes it has taken out since it started."""
        self._account.released(total)

    @property
    def used(self) -> int:
        """Bytes that are in the spool at most."""
        return self._account.used

    def accept(self, name: str, content: bytes, digest: bytes | None = None) -> bool:
        """Store `content` so that it survives a power cut, then return. Constant time.

        `digest` is its SHA-256 if it is known already. Returns whether a worker's copy was taken over.

        Raises:
            SpoolFull, SpoolSuspect: nothing was written.
            OSError: the disk failed; nothing is accepted under this name.
        """
        was_taken = self.stage(name, content, digest, durable=True)
        try:
            os.rename(self._incoming + name, self._pending + name)
        except BaseException:
            self.discard(name)
            raise
        try:
            self._pending_sync.sync()
        except BaseException as error:
            # The transfer process may have it already: it takes back what has a tombstone, wherever it is
            self._try_to_bury(name)
            self.health.failed(error)
            raise
        finally:
            self._account.accept(name)
        self.health.succeeded()
        return was_taken

    def stage(self, name: str, content: bytes, digest: bytes | None = None, *, durable: bool = False) -> bool:
        """Write `content` to `incoming`, where a restart drops it. Constant time.

        Returns whether a worker's copy was taken over, which is only looked for if it shall be `durable`.

        Raises:
            SpoolFull, SpoolSuspect: nothing was written.
            OSError: the disk failed; nothing is staged under this name.
        """
        self._reserve(name, len(content))
        path = self._incoming + name
        try:
            if durable and take_arrival(self._folder, content, digest, path):
                return True
            write_new(path, content, digest or sha256(content).digest(), durable=durable)
            return False
        except BaseException as error:
            self.discard(name)
            self.health.failed(error)
            raise

    def discard(self, name: str) -> None:
        """Forget a staged attachment; one that cannot be unlinked counts as used until `tend` succeeds."""
        try:
            os.unlink(self._incoming + name)
        except FileNotFoundError:
            pass
        except OSError:
            if _may_exist(self._incoming + name):  # a read-only disk says so before it looks
                self._unswept.add(name)
                return
        self._unswept.discard(name)
        self._account.forget(name)

    def confirmed(self, name: str) -> None:
        """A staged attachment has left the spool: S3 holds it."""
        self._account.forget(name)

    def give_up(self, name: str) -> None:
        """Forget a staged attachment that may have reached S3 all the same: its object is deleted if it has."""
        self._try_to_bury(name)
        self.discard(name)

    def bury(self, name: str, *, in_doubt: bool = False, replaced_by: str | None = None) -> None:
        """Note durably that Orthanc has removed this attachment, then return; the object is deleted later.

        `in_doubt`: Orthanc's commit seems to have failed, and may not have. That need not outlive a power cut: whatever
        was removed before the start is in doubt. `replaced_by`: what may have taken its place, noted if the disk can.

        Raises:
            OSError: the disk failed. The removal is remembered until `tend` succeeds, or this process ends.
        """
        try:
            descriptor = os.open(self._tombstones + name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if in_doubt:
                with contextlib.suppress(OSError):  # a full disk has room for the name only
                    os.write(descriptor, IN_DOUBT)
            elif replaced_by:
                with contextlib.suppress(OSError):
                    os.setxattr(descriptor, REPLACED_BY, replaced_by.encode())
            os.close(descriptor)
            self._tombstones_sync.sync()
        except OSError as error:
            if len(self._unburied) < _MAXIMUM_UNBURIED:
                self._unburied[name] = in_doubt
            self.health.failed(error)
            raise
        self._unburied.pop(name, None)

    def open(self, name: str) -> int | None:
        """A read-only descriptor of a pending attachment, or None if it is not pending."""
        try:
            return os.open(self._pending + name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    @property
    def needs_tending(self) -> bool:
        """Whether the disk has kept us from something."""
        return bool(self.health.is_suspect or self._unswept or self._unburied)

    def tend(self) -> None:
        """Do what a failure of the disk has prevented, and try the disk if it is suspect.

        Takes as long as the disk takes; a call while another one runs does nothing.
        """
        if not self._tending.acquire(blocking=False):
            return
        try:
            for name in tuple(self._unswept):
                self.discard(name)
            for name, in_doubt in tuple(self._unburied.items()):
                self._try_to_bury(name, in_doubt=in_doubt)
            if self.health.is_suspect:
                self.health.try_it()
        finally:
            self._tending.release()

    def _try_to_bury(self, name: str, *, in_doubt: bool = False) -> None:
        try:
            self.bury(name, in_doubt=in_doubt)
        except OSError:
            pass  # `tend` tries again

    def _reserve(self, name: str, size: int) -> None:
        if self.health.is_suspect:
            raise SpoolSuspect(
                f"the disk of {self.directory} does not keep what is written ({self.health.reason}), so nothing is "
                "stored until a trial write succeeds; look at that disk and into the kernel's log"
            )
        if not self._account.reserve(name, size, self.maximum_size):
            raise SpoolFull(
                f"the spool holds {self.used} of {self.maximum_size} bytes and cannot take {size} more until S3 has "
                "taken some; see Isen.Storage.MaximumSpoolSizeMB"
            )


def _may_exist(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True
