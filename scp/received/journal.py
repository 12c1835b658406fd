"""Instances that senders believe stored and Orthanc does not have yet: each a Part 10 file that survives a power cut.

    <directory>/incoming/<random>      being written; swept when nobody holds it
    <directory>/pending/<name>         acknowledged, owed to Orthanc
    <directory>/refused/<name>.<time>  Orthanc will never take it; an operator must look

A name is the digest of the SOP Instance UID, so there is one file of an instance at most: a second one of the same
instance has to wait until Orthanc has the first, which keeps them in order, whichever worker they came to.

All workers share the folder. Whoever has a file to hand over holds its flock(2); the kernel lets go of it when that
worker dies, however it dies, and another one adopts the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from config.folder_format import DIGEST_ATTRIBUTE, make_durably, sync_folder
from config.whole_writes import write_all
from scp.durable_folder import file_name

BLOCK_SIZE: Final = 1024 * 1024  # bytes
MAXIMUM_COUNT: Final = 2048  # files of one worker; each keeps a descriptor open
_ORIGIN: Final = "user.isen.origin"
_ABANDONED_AFTER: Final = 60.0  # seconds; a younger file may be one that its writer has not locked yet


class JournalFull(Exception):
    """There is no room; the sender may try again."""


class Damaged(Exception):
    """The file is not what was received."""


class AlreadyWaiting(Exception):
    """An instance of the same SOP Instance UID has not been handed over yet."""


@dataclass(frozen=True)
class Entry:
    """One acknowledged instance; whoever has it owns it."""

    name: str
    descriptor: int  # holds the lock
    size: int  # bytes
    origin: Mapping[str, str]  # RemoteAET, CalledAET, RemoteIP; empty if the file system keeps no attributes
    accepted: float  # Unix time
    digest: bytes | None  # SHA-256 of what was received; None: this file system keeps none
    is_new: bool  # written by this worker

    def blocks(self, *, verified: bool) -> Iterator[bytes]:
        """The content; may be asked for again. What is not `verified` should have been written a moment ago.

        Raises:
            Damaged: instead of the last block, so that whoever gets the others has nothing whole.
        """
        found, position = sha256(), 0
        while position < self.size:
            block = os.pread(self.descriptor, BLOCK_SIZE, position)
            position += len(block)
            if verified and self.digest is not None:
                found.update(block)
                if position >= self.size and found.digest() != self.digest:
                    raise Damaged
            if not block:
                raise Damaged
            yield block


class Journal:
    """Thread-safe; one for each worker."""

    def __init__(self, directory: Path, maximum_size: int) -> None:
        """`maximum_size` is in bytes, of this worker's files. The folders are made if they are missing.

        Raises:
            OSError: they cannot be made.
        """
        self.maximum_size = maximum_size
        self._incoming, self._pending, self._refused = (
            directory / place for place in ("incoming", "pending", "refused")
        )
        for folder in (self._incoming, self._pending, self._refused):
            make_durably(folder)
        self._directory = os.open(self._pending, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changed = threading.Condition()
        self._owned: dict[str, Entry] = {}
        self._bytes = 0
        self._count = 0  # files owned or being written
        self._sweep()

    def accept(
        self, sop_instance_uid: str, content: Iterable[bytes | memoryview], size: int, origin: Mapping[str, str],
        patience: float,
    ) -> Entry:  # fmt: skip
        """Store an instance of `size` bytes so that it survives a power cut, then return.

        Waits up to `patience` seconds for room.

        Raises:
            AlreadyWaiting, JournalFull: nothing was stored.
            OSError: the disk failed; nothing was stored.
        """
        name = file_name(sop_instance_uid)
        if (self._pending / name).exists():
            raise AlreadyWaiting
        self._reserve(size, patience)
        try:
            return self._write(name, content, size, origin)
        except BaseException:
            self._give_back(size)
            raise

    def is_waiting(self, sop_instance_uid: str) -> bool:
        """Whether an acknowledged instance of this UID is still owed to Orthanc, by any worker."""
        return (self._pending / file_name(sop_instance_uid)).exists()

    def wait_until_gone(self, sop_instance_uid: str, patience: float) -> bool:
        """Wait up to `patience` seconds for it to be handed over; whether it is, also after a power cut."""
        deadline = time.monotonic() + patience
        while self.is_waiting(sop_instance_uid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # another process hands it over: there is nothing to wait on
        os.fsync(self._directory)
        return True

    def adopt(self) -> list[Entry]:
        """Take over what workers have left that died. Lists the folder once."""
        found = []
        for name in os.listdir(self._pending):
            entry = None if name in self._owned else self._taken_over(name)
            if entry is not None:
                with self._changed:
                    self._owned[name] = entry
                    self._bytes += entry.size
                    self._count += 1
                found.append(entry)
        return sorted(found, key=lambda entry: entry.accepted)

    def finish(self, entry: Entry) -> None:
        """Orthanc has it. The file goes; should it come back in a power cut, it is handed over again."""
        (self._pending / entry.name).unlink(missing_ok=True)
        self._forget(entry)

    def set_aside(self, entry: Entry) -> None:
        """Orthanc will never take it: keep it where an operator finds it."""
        with contextlib.suppress(FileExistsError):  # it was tried before
            os.link(self._pending / entry.name, self._refused / f"{entry.name}.{int(entry.accepted * 1e9)}")
        sync_folder(self._refused)
        self.finish(entry)

    def report(self) -> dict[str, Any]:
        """What this worker owes, and what all have set aside."""
        with self._changed:
            oldest = min((entry.accepted for entry in self._owned.values()), default=None)
            count, size = len(self._owned), sum(entry.size for entry in self._owned.values())
        return {
            "Count": count,
            "Bytes": size,
            "OldestSeconds": None if oldest is None else max(0.0, round(time.time() - oldest, 3)),
            "RefusedCount": len(os.listdir(self._refused)),
        }

    def _write(self, name: str, content: Iterable[bytes | memoryview], size: int, origin: Mapping[str, str]) -> Entry:
        temporary = self._incoming / uuid4().hex
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            digest, length = sha256(), 0
            for block in content:
                digest.update(block)
                length += len(block)
                write_all(descriptor, block)
            if length != size:
                raise OSError(f"the instance has a length of {length} bytes, not of {size}")
            with contextlib.suppress(OSError):  # a file system without extended attributes
                os.setxattr(descriptor, DIGEST_ATTRIBUTE, digest.digest())
                os.setxattr(descriptor, _ORIGIN, json.dumps(dict(origin)).encode())
            os.fsync(descriptor)
            try:
                os.link(temporary, self._pending / name)  # unlike rename(2) it never replaces
            except FileExistsError:
                raise AlreadyWaiting from None
            try:
                os.fsync(self._directory)
            except BaseException:
                (self._pending / name).unlink()
                raise
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            temporary.unlink(missing_ok=True)
        entry = Entry(name, descriptor, size, origin, time.time(), digest.digest(), is_new=True)
        with self._changed:
            self._owned[name] = entry
        return entry

    def _taken_over(self, name: str) -> Entry | None:
        """The file, if nobody holds it and it is still there."""
        path = self._pending / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if path.stat().st_ino != status.st_ino:
                raise FileNotFoundError
            digest, origin = _attribute(descriptor, DIGEST_ATTRIBUTE), _attribute(descriptor, _ORIGIN)
            return Entry(
                name, descriptor, status.st_size, _strings(origin), status.st_mtime, digest or None, is_new=False
            )
        except OSError:  # its owner lives, or has just handed it over
            os.close(descriptor)
            return None

    def _reserve(self, size: int, patience: float) -> None:
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._bytes + size <= self.maximum_size and self._count < MAXIMUM_COUNT, patience
            ):
                raise JournalFull
            self._bytes += size
            self._count += 1

    def _give_back(self, size: int) -> None:
        with self._changed:
            self._bytes -= size
            self._count -= 1
            self._changed.notify_all()

    def _forget(self, entry: Entry) -> None:
        with self._changed:
            if self._owned.get(entry.name) is entry:  # otherwise another has come since its file went
                del self._owned[entry.name]
        os.close(entry.descriptor)
        self._give_back(entry.size)

    def _sweep(self) -> None:
        for path in self._incoming.iterdir():
            with contextlib.suppress(OSError):  # its writer lives
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_AFTER:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                finally:
                    os.close(descriptor)


def _attribute(descriptor: int, name: str) -> bytes:
    try:
        return os.getxattr(descriptor, name)
    except OSError:
        return b""


def _strings(encoded: bytes) -> Mapping[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(encoded).items()}
    except (ValueError, AttributeError):
        return {}
