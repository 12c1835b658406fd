"""While Orthanc parses an instance, a copy of it is made durable here, for the plugin to take over: `config.arrival`.

Syncing a file takes about as long as parsing it, so a lone sender waits for one of the two instead of both. It costs
some CPU, so it is left while stores overlap, in this worker or with those of others, and where nothing is taken over:
with compressed or transcoded storage, or when it is not the spool that makes instances durable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from config.arrival import ARRIVING, PART, arrival_name, sweep_arrivals
from config.folder_format import DIGEST_ATTRIBUTE
from config.whole_writes import write_all

Body = Callable[[], Iterator[bytes]]

_LONGEST: Final = 4 * 1024 * 1024  # bytes of an instance that is copied: the spool's limit does not count it
_LONGEST_HEAD: Final = 64 * 1024  # bytes
_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"  # the tag in little endian
_CROWDED: Final = 0.25  # seconds after two stores overlapped
_TRIES: Final = 8  # copies in a row that nobody took
_PAUSE: Final = 60.0  # seconds until it is tried again


class Arrivals:
    """Thread-safe; the workers share the folder."""

    def __init__(self, spool: Path) -> None:
        """`spool` is the SpoolDirectory, in which the plugin makes the folder. What dead workers left there goes."""
        self._folder = f"{spool}/{ARRIVING}/"
        self._lock = threading.Lock()
        self._under_way = 0  # stores of this worker
        self._not_before = 0.0  # monotonic time
        self._in_vain = 0
        self._directory = -1  # its flock(2) is shared by the workers that have a store under way
        with contextlib.suppress(OSError):  # the spool will tell of a disk that fails
            sweep_arrivals(str(spool))
            self._directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def copied(self, body: Body, length: int) -> Iterator[Body]:
        """The body of `length` bytes to post instead of `body`: once its last byte is sent, it is copied as well.

        The copy is there until it is taken, or the block is left. It fails without a word: it is not needed.
        """
        is_worth_it = self._begin()
        try:
            if length > _LONGEST or not is_worth_it:
                yield body
                return
            names: list[str] = []
            blocks: list[bytes] = []

            def sent_and_kept() -> Iterator[bytes]:
                is_first = not blocks  # otherwise the request is being repeated
                for block in body():
                    if is_first:
                        blocks.append(block)
                    yield block
                if is_first:
                    self._keep(blocks, length, names)

            try:
                yield sent_and_kept
            finally:
                left = [name for name in names if self._was_left(name)]
                if blocks:
                    self._learn(is_taken=bool(names) and names[0] not in left)
        finally:
            self._end()

    def _begin(self) -> bool:
        """A store begins; whether a copy is worth it."""
        with self._lock:
            self._under_way += 1
            now = time.monotonic()
            if self._under_way > 1 or not self._locked():
                self._not_before = max(self._not_before, now + _CROWDED)
            return now >= self._not_before

    def _locked(self) -> bool:
        """Take our share of the lock; False: another worker has one."""
        is_alone = True
        for operation in (fcntl.LOCK_EX, fcntl.LOCK_SH):  # who asks for all of it, gets it, and gives it back, is alone
            try:
                fcntl.flock(self._directory, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                is_alone = False
            except (OSError, ValueError):  # there is no folder, or it is on NFS: nobody knows of the others
                break
        return is_alone

    def _end(self) -> None:
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                with contextlib.suppress(OSError, ValueError):
                    fcntl.flock(self._directory, fcntl.LOCK_UN)

    def _learn(self, *, is_taken: bool) -> None:
        with self._lock:
            self._in_vain = 0 if is_taken else self._in_vain + 1
            if self._in_vain >= _TRIES:
                self._in_vain = 0
                self._not_before = time.monotonic() + _PAUSE

    def _keep(self, blocks: list[bytes], length: int, names: list[str]) -> None:
        """Copy the file, then what Orthanc stores as its beginning; the names of the copies are added to `names`."""
        beginning = b"".join(block[:_LONGEST_HEAD] for block in blocks[:2])[:_LONGEST_HEAD]
        head = beginning[: max(0, beginning.find(_PIXEL_DATA))]
        if self._write(arrival_name(beginning, length), blocks, names) and head:
            self._write(arrival_name(head, len(head)), (head,), names)

    def _write(self, name: str, blocks: Sequence[bytes], names: list[str]) -> bool:
        """Whether there is a copy of this name now, ours."""
        part = self._folder + name + PART
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return False  # another copy of the same, or a disk that the spool will tell of
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.stat(part).st_ino == os.fstat(descriptor).st_ino:  # otherwise it was swept before it was locked
                    self._publish(descriptor, part, blocks)
                    names.append(name)
                    return True
            finally:
                os.close(descriptor)
        return False

    def _publish(self, descriptor: int, part: str, blocks: Sequence[bytes]) -> None:
        """Write the file and give it its name; it is gone if that fails."""
        try:
            _write_durably(descriptor, blocks)
            os.rename(part, part.removesuffix(PART))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise

    def _was_left(self, name: str) -> bool:
        """Whether nobody has taken it; it is gone now."""
        try:
            os.unlink(self._folder + name)
        except OSError as error:
            return error.errno != errno.ENOENT
        return True


def _write_durably(descriptor: int, blocks: Sequence[bytes]) -> None:
    digest = sha256()
    for block in blocks:
        write_all(descriptor, block)
        digest.update(block)
    try:
        os.setxattr(descriptor, DIGEST_ATTRIBUTE, digest.digest())
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    os.fsync(descriptor)
