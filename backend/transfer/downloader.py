"""One object's bytes: verified, and in the cache unless that cannot be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from backend.atomic_file import write_digest
from backend.transfer.counters import Counters
from backend.transfer.download_file import DownloadFile
from backend.transfer.download_slots import DownloadSlots, Priority, Rank
from backend.transfer.just_verified import JustVerified
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ObjectCorrupted, Unreachable
from backend.transfer.object_store.protocols import ReadObject
from backend.transfer.read_cache import ReadCache
from config.http.asked import Asked
from config.whole_writes import write_all

_SLOWEST: Final = 64 * 1024  # bytes per second; a download that is slower is given up
_SHORTEST: Final = 30.0  # seconds of waiting for the network; no download is given up earlier


class NoRoom(Exception):
    """The cache cannot take it, so it is not fetched ahead."""


class Downloader:
    """Downloads in the thread that asks. Thread-safe for distinct names."""

    def __init__(
        self,
        cache: ReadCache,
        store: ReadObject,
        key: Callable[[str], str],
        *,
        slots: DownloadSlots,
        names: NameLocks,
        counters: Counters,
        just_verified: JustVerified,
        is_removed: Callable[[str], bool],
    ) -> None:
        """`is_removed` says whether Orthanc has removed an attachment: then it does not come into the cache."""
        self._cache = cache
        self._store = store
        self._key = key
        self._slots = slots
        self._names = names
        self._counters = counters
        self._just_verified = just_verified
        self._is_removed = is_removed

    def whole(self, name: str, rank: Rank, asked: Asked | None = None, *, unread: bool = False) -> int:
        """A descriptor of the attachment, at its start. The cache has it too, if there is room and the disk works.

        The caller has the slot of this rank. `asked` is a request that was sent already. With `unread` nobody has asked
        for the bytes yet.

        Raises:
            ObjectStoreError: they cannot be had.
            NoRoom: `unread`, and the cache has no room.
            OSError: the local disk and memory cannot take them.
        """
        with self._store.get(self._key(name), asked) as found:
            size = found.attributes.size
            is_reserved = self._cache.reserve(size)
            if unread and not is_reserved:
                raise NoRoom(f"{name} does not fit into the cache")
            try:
                file = DownloadFile(self._cache.temporary(name), size)
                try:
                    digest = sha256()
                    deadline = time.monotonic() + _SHORTEST + size / _SLOWEST
                    for chunk in found.chunks():
                        arrived = time.monotonic()
                        if arrived > deadline:
                            raise Unreachable(f"GetObject {name}: slower than {_SLOWEST} bytes per second")
                        with self._slots.turns.held(rank):
                            file.write(chunk)
                            digest.update(chunk)
                        deadline += time.monotonic() - arrived  # the network is not to blame for what happens here
                    if found.attributes.digest not in (None, digest.digest()):
                        raise ObjectCorrupted(f"the object of {name} does not have the SHA-256 it was stored with")
                    write_digest(file.descriptor, digest.digest())
                    self._keep(name, file, size, is_reserved=is_reserved, unread=unread)
                except BaseException:
                    file.close()
                    raise
            finally:
                if is_reserved:
                    self._cache.release(size)
        if file.disk_error is None:
            self._just_verified.add(name, file.descriptor)
        self._counters.add("downloads")
        self._counters.add("download_bytes", size)
        return file.descriptor

    def part(self, name: str, start: int, end: int) -> int:
        """A descriptor of the bytes `start` to `end`, exclusive, at its start; nothing of them is kept.

        Raises:
            ObjectStoreError: they cannot be had.
            OSError: memory cannot take them.
        """
        with self._slots.held(Priority.READ):
            content = self._store.get_range(self._key(name), start, end)
        self._counters.add("range_downloads")
        self._counters.add("range_download_bytes", len(content))
        return in_memory(content)

    def _keep(self, name: str, file: DownloadFile, size: int, *, is_reserved: bool, unread: bool) -> None:
        """Put the file into the cache unless that cannot be; its descriptor serves the readers in any case."""
        if file.disk_error is not None:
            self._cache.disk_failed(file.disk_error)
        with self._names.if_free(name) as is_free:
            if file.path is None or not is_reserved or not is_free or self._is_removed(name):
                file.unlink()
                return
            try:
                self._cache.publish(name, file.path, size, unread=unread)
                file.path = None
            except OSError as error:
                self._cache.disk_failed(error)
                file.unlink()


def in_memory(content: bytes) -> int:
    """A descriptor of a file without a name or a disk."""
    descriptor = os.memfd_create("range", os.MFD_CLOEXEC)
    try:
        write_all(descriptor, content)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
