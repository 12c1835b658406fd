"""Keeps the read cache within its budget: what goes in, and what is evicted for it.

    objects/<first two characters of name>/<name>    S3 holds these bytes; may be evicted at any time
    fetching/<name>.<unique>                         being downloaded or copied; swept at start
    checked_boot                                     boot id of the machine when the files were last looked over

Nothing here is synced to the disk: losing it costs a download. But after a power cut a file may have its name and its
digest and still not its bytes, so those that were young when an earlier boot ended are dropped. The plugin opens files
by path, touches their mtime, and may unlink a damaged one; the index notices when it evicts.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import shutil
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from backend.atomic_file import read_digest, write_digest
from backend.cache import UNREAD, cache_file
from backend.object_key import is_attachment_name
from backend.transfer.counters import Counters

log = logging.getLogger(__name__)

_LOW_WATER: Final = 0.9  # evict down to this part of the budget
_YOUNG: Final = 120.0  # seconds; the kernel writes dirty pages after 30 s, a slow disk takes a while
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class ReadCache:
    """Puts files into the cache and evicts the least recently read. Thread-safe; the only one for its directory."""

    def __init__(self, directory: Path, maximum: int, counters: Counters) -> None:
        """`maximum` is in bytes. Nothing is touched before `recover`."""
        self.directory = directory
        self.maximum = maximum
        self._counters = counters
        self._fetching = directory / "fetching"
        self._numbers = count()  # of files being fetched, which do not outlive this process
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._by_age: list[tuple[float, str]] = []  # heap of (mtime when last looked at, name)
        self._bytes = 0
        self._reserved = 0
        self._is_broken = False

    def recover(self) -> None:
        """Sweep what was being fetched, index the files, evict what is over the budget; reads each entry once.

        A disk that fails is logged: without a cache there are uploads and reads still.
        """
        try:
            self._recover()
        except OSError as error:
            self.disk_failed(error)

    def _recover(self) -> None:
        self._fetching.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.directory / "objects").mkdir(mode=0o700, exist_ok=True)
        for entry in os.scandir(self._fetching):
            os.unlink(entry.path)
        found = []
        for shard in os.scandir(self.directory / "objects"):
            if not shard.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(shard.path):
                if is_attachment_name(entry.name) and entry.is_file(follow_symlinks=False):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
                else:
                    log.warning("stray_file folder=%s", shard.path)
        doubtful = self._doubtful(found)
        for name, status in found:
            if name in doubtful:
                os.unlink(self._path(name))
            else:
                self._index(name, status.st_size, status.st_mtime)
        if doubtful:
            log.warning("cache_entries_dropped count=%d reason=the machine was restarted", len(doubtful))
        (self.directory / "checked_boot").write_text(_BOOT_ID.read_text())
        if self._bytes > self.maximum:
            with self._lock:
                self._evict(int(self.maximum * _LOW_WATER))
        self._make_shards()

    def _make_shards(self) -> None:
        """Make every folder that a name can belong to, so that no download has to.

        On a full disk that fails: it comes last, and `publish` tries again.
        """
        objects = self.directory / "objects"
        present = set(os.listdir(objects))
        for shard in (f"{number:02x}" for number in range(256)):
            if shard not in present:
                (objects / shard).mkdir(mode=0o700)

    def reserve(self, size: int) -> bool:
        """Make room for `size` bytes that are going to be put in; False if they do not fit at all."""
        with self._lock:
            if size > self.maximum:
                return False
            if self._bytes + self._reserved + size > self.maximum:
                self._evict(int(self.maximum * _LOW_WATER) - size)
            if self._bytes + self._reserved + size > self.maximum:
                return False
            self._reserved += size
            return True

    def leave_room(self, wanted: int) -> None:
        """Evict until `wanted` bytes of the disk are free, or half of what is free and cached, if that is less.

        Half, so that a disk smaller than the two budgets has a cache too.

        Raises:
            OSError: the disk does not tell.
        """
        disk = os.statvfs(self.directory)
        free = disk.f_bavail * disk.f_frsize
        with self._lock:
            missing = min(wanted, (free + self._bytes) // 2) - free
            if missing > 0:
                self._evict(self._bytes + self._reserved - missing)

    def release(self, size: int) -> None:
        """Give back a reservation, used or not."""
        with self._lock:
            self._reserved -= size

    def temporary(self, name: str) -> str:
        """A path in `fetching` that nobody else has."""
        return f"{self._fetching}/{name}.{next(self._numbers)}"

    def publish(self, name: str, source: Path | str, size: int, *, unread: bool = False) -> None:
        """Rename a file of this file system into the cache; its size has been reserved.

        `unread`: nobody has asked for it yet, see `backend.cache`.

        Raises:
            OSError: the file is still where it was.
        """
        target = self._path(name)
        last_read = time.time()
        if unread:
            last_read -= UNREAD
            os.utime(source, (last_read, last_read))
        # outside the lock, because a busy disk takes its time: what is not in the index yet is not evicted, and whoever
        # drops this very name waits for its lock in NameLocks
        try:
            os.rename(source, target)
        except FileNotFoundError:  # the disk was full at start, or somebody has removed the folder
            with suppress(FileExistsError):  # another download was faster
                os.mkdir(os.path.dirname(target), mode=0o700)
            os.rename(source, target)
        with self._lock:
            self._index(name, size, last_read)

    def adopt(self, name: str, source: Path | str, size: int) -> None:
        """Take over the file of an attachment that S3 holds now. It is not at `source` afterwards, come what may.

        It is dropped if it does not fit or the cache's disk fails: that must not keep the spool from emptying.

        Raises:
            OSError: the spool's own disk failed; the file is still at `source`.
        """
        if not self.reserve(size):
            _unlink(source)
            return
        try:
            self._move(name, source, size)
        except OSError as error:
            if os.path.exists(source):  # otherwise it has been removed meanwhile
                self.disk_failed(error)
                _unlink(source)
        else:
            self._is_broken = False
        finally:
            self.release(size)

    def drop(self, name: str) -> None:
        """Remove the attachment from the cache if it is there."""
        with self._lock:
            self._bytes -= self._sizes.pop(name, 0)
            _unlink(self._path(name))

    def disk_failed(self, error: OSError) -> None:
        """Log it, once until it works again; a full disk is given some room back."""
        if not self._is_broken:
            log.error("cache_unusable directory=%s reason=%s", self.directory, error)
        self._is_broken = True
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with self._lock:
                self._evict(int(self._bytes * _LOW_WATER))

    def report(self) -> dict[str, int]:
        with self._lock:
            return {"Bytes": self._bytes, "MaximumBytes": self.maximum, "Count": len(self._sizes)}

    def _path(self, name: str) -> str:
        return cache_file(self.directory, name)

    def _move(self, name: str, source: Path | str, size: int) -> None:
        try:
            self.publish(name, source, size)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
        copy = self.temporary(name)
        try:
            shutil.copyfile(source, copy)
            digest = read_digest(Path(source))
            if digest is not None:
                write_digest(Path(copy), digest)
            self.publish(name, copy, size)
        except OSError:
            _unlink(copy)
            raise
        os.unlink(source)

    def _index(self, name: str, size: int, mtime: float) -> None:
        known = self._sizes.get(name)
        if known is None:
            heapq.heappush(self._by_age, (mtime, name))
        self._bytes += size - (known or 0)
        self._sizes[name] = size

    def _evict(self, target: int) -> None:
        """Unlink the least recently read until at most `target` bytes are stored or reserved; the lock is held."""
        while self._by_age and self._bytes + self._reserved > target:
            mtime, name = heapq.heappop(self._by_age)
            size = self._sizes.get(name)
            if size is None:
                continue  # dropped since
            path = self._path(name)
            try:
                now = os.stat(path).st_mtime
                if now > mtime:
                    heapq.heappush(self._by_age, (now, name))  # read since
                    continue
                os.unlink(path)
                self._counters.add("evictions")
            except FileNotFoundError:
                pass  # the plugin has found it damaged
            except OSError as error:
                heapq.heappush(self._by_age, (mtime, name))
                log.error("eviction_failed name=%s reason=%s", name, error)  # noqa: TRY400 - one line per event
                return
            del self._sizes[name]
            self._bytes -= size

    def _doubtful(self, found: list[tuple[str, os.stat_result]]) -> set[str]:
        """Names of files that may lack their bytes because the machine went down soon after they were written."""
        checked = self.directory / "checked_boot"
        if checked.exists() and checked.read_text() == _BOOT_ID.read_text():
            return set()
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        earlier = [status.st_ctime for _, status in found if status.st_ctime < booted]
        if not earlier:
            return set()
        return {name for name, status in found if max(earlier) - _YOUNG < status.st_ctime < booted}


def _unlink(path: Path | str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
