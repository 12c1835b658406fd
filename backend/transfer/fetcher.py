"""Brings objects from the bucket to whoever asks for their bytes: verified, once however many ask, into the cache.

What is handed out is a descriptor, not a path: eviction cannot take it away from its reader.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Final, TypeAlias

from backend.atomic_file import read_part
from backend.cache import cache_file, open_cached
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import GET, Availability
from backend.transfer.back_off import back_off
from backend.transfer.counters import Counters
from backend.transfer.download_slots import DownloadSlots, Priority
from backend.transfer.downloader import Downloader, in_memory
from backend.transfer.just_verified import JustVerified
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import (
    ObjectCorrupted,
    ObjectMissing,
    ObjectOfAnotherKey,
    ObjectStoreError,
    ObjectUnencrypted,
)
from backend.transfer.object_store.protocols import ReadObject
from backend.transfer.read_cache import ReadCache
from backend.transfer.single_flight import SingleFlight
from config.http.asked import LARGEST_AWAITED, Asked

log = logging.getLogger(__name__)

FetchAhead: TypeAlias = Generator[Asked | None, bool | None, bool]

_RETRY_TIME: Final = 5.0  # seconds in which a failed download is begun again
_ATTEMPTS: Final = 3  # downloads that may fail before the reader is told
_MISSING_PAUSE: Final = 0.25  # seconds between two questions for a missing object
_FAIL_FAST: Final = 1.0  # seconds after a failure in which readers are not made to wait for the next one


class Fetcher:
    """Fetches attachments by name. Thread-safe."""

    def __init__(
        self,
        spool: Path,
        cache: ReadCache,
        store: ReadObject,
        key: Callable[[str], str],
        *,
        names: NameLocks,
        availability: Availability,
        counters: Counters,
        concurrent: int,
        patience: float,
        good_copy: Callable[[str], int | None],
        storage_directory: StorageDirectory | None = None,
    ) -> None:
        """`concurrent` downloads at a time; a missing object is asked for again for `patience` seconds.

        `good_copy` gives a descriptor of another copy of what is missing or damaged in the store, if there is one.

        What `storage_directory` holds (HybridMode) need not be fetched; but Orthanc's reads have looked there before.
        """
        self._good_copy = good_copy
        self._storage_directory = storage_directory
        # strings, because joining a Path takes 3 µs, and each download does it several times
        self._pending = f"{spool}/pending/"
        self._tombstones = f"{spool}/tombstones/"
        self._cache = cache
        self._store = store
        self._key = key
        self._availability = availability
        self._counters = counters
        self._slots = DownloadSlots(concurrent)
        self._patience = patience
        self._flights = SingleFlight()
        self.just_verified = JustVerified()
        self._downloader = Downloader(
            cache,
            store,
            key,
            slots=self._slots,
            names=names,
            counters=counters,
            just_verified=self.just_verified,
            is_removed=self._is_removed,
        )

    def fetch(self, name: str, priority: Priority = Priority.READ) -> int:
        """A read-only descriptor of the whole verified attachment, at its start; the caller closes it.

        With `Priority.READ` a missing object is waited for, and a file in Orthanc's own folder does not do: the plugin
        has looked there. With others that file is handed out, for the caller to verify.

        Raises:
            ObjectStoreError: it cannot be had; `kind` says why.
            OSError: the local disk and memory cannot take it.
        """
        descriptor = self.opened(name, anywhere=priority != Priority.READ)
        if descriptor is not None:
            return descriptor

        def download(name: str) -> int:
            with self._slots.held(priority) as rank:
                return self._downloader.whole(name, rank)

        is_ahead = priority != Priority.READ
        patience = 0.0 if is_ahead else self._patience
        return self._flights.descriptor(name, lambda: self._bring_whole(name, download, patience), is_ahead=is_ahead)

    def opened(self, name: str, *, anywhere: bool) -> int | None:
        """A descriptor of what spool or cache hold, or Orthanc's own folder if `anywhere`; the caller closes it.

        Raises:
            ObjectMissing: Orthanc has removed it.
            OSError: the spool's disk failed.
        """
        descriptor = self._local(name)
        return self._in_storage_directory(name) if descriptor is None and anywhere else descriptor

    def _in_storage_directory(self, name: str) -> int | None:
        try:
            return self._storage_directory.open(name) if self._storage_directory else None
        except OSError:
            return None  # the plugin tells of it, if it has to read there

    def fetch_ahead(self, name: str, priority: Priority) -> FetchAhead:
        """Put it into the cache before somebody asks for it; returns False if it is here or on its way already.

        One attempt, which gives way to readers. It yields where it would wait, so that one thread may have many under
        way: what it has asked of the store, to be resumed when that has come, or None, before it waits for something
        else. True sent to it has it wait for the answer by itself.

        Raises:
            ObjectStoreError, OSError, NoRoom: it is not here.
        """
        rank = self._slots.taken_at_once(priority)
        if rank is None:
            yield None
            rank = self._slots.taken(priority)
        try:
            if self._storage_directory is not None:
                yield None  # it may be on a disk that hangs
            descriptor = self._in_storage_directory(name)
            if descriptor is not None:
                os.close(descriptor)
                return False
            with self._flights.ahead(name) as flight:
                if flight is None:
                    return False
                # looked for in the flight, and not before it: one that has just landed has put it there
                flight.descriptor = self._local(name, touch=False)
                if flight.descriptor is not None:
                    return False
                self._fail_fast()
                asked = self._store.ask(self._key(name))
                if asked is None:
                    yield None
                    asked = self._store.ask(self._key(name), may_connect=True)
                with nullcontext() if asked is None else closing(asked):
                    if asked is not None:
                        yield from _arrival(asked)
                    flight.descriptor = self._downloader.whole(name, rank, asked, unread=True)
            return True
        finally:
            self._slots.give_back()

    def fetch_range(self, name: str, start: int, end: int) -> int:
        """A read-only descriptor of the bytes `start` to `end`, exclusive; the caller closes it.

        One ranged GET, of which nothing is kept, or two of an encrypted object. Bytes of an unencrypted one are not
        verified: the object's digest is that of the whole.

        Raises:
            ObjectStoreError: they cannot be had; `kind` says why.
            OSError: memory cannot take them.
        """

        def local(name: str) -> int | None:
            whole = self._local(name)
            if whole is None:
                return None
            try:
                return in_memory(read_part(whole, start, end))
            finally:
                os.close(whole)

        def download(name: str) -> int:
            return self._downloader.part(name, start, end)

        return self._flights.descriptor(
            f"{name} {start}-{end}", lambda: self._bring(name, local, download, self._patience)
        )

    def _local(self, name: str, *, touch: bool = True) -> int | None:
        """A descriptor of what the spool or the cache holds, if either does.

        Raises:
            ObjectMissing: Orthanc has removed it.
        """
        if self._is_removed(name):
            raise ObjectMissing(f"{name} has been removed")
        try:
            return os.open(self._pending + name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        try:
            if not touch:
                return os.open(cache_file(self._cache.directory, name), os.O_RDONLY | os.O_CLOEXEC)
            return open_cached(self._cache.directory, name)
        except FileNotFoundError:
            return None
        except OSError as error:  # the cache's disk; S3 has it
            self._cache.disk_failed(error)
            return None

    def _bring(
        self, name: str, local: Callable[[str], int | None], download: Callable[[str], int], patience: float
    ) -> int:
        self._fail_fast()
        started = time.monotonic()
        failures = 0
        while True:
            descriptor = local(name)
            if descriptor is not None:
                return descriptor
            try:
                return download(name)
            except ObjectMissing:
                # another node may have it in its spool still
                if time.monotonic() - started > patience:
                    self._counters.add("download_failures")
                    raise
                time.sleep(_MISSING_PAUSE)
            except ObjectStoreError as error:
                self._counters.add("download_failures")
                self._count(error)
                failures += 1
                is_late = time.monotonic() - started > _RETRY_TIME
                if not error.retry_helps or is_late or failures == _ATTEMPTS:
                    log.error("download_failed name=%s kind=%s reason=%s", name, error.kind, error)  # noqa: TRY400
                    raise
                time.sleep(back_off(failures, first=0.2, cap=1.0))

    def _count(self, error: ObjectStoreError) -> None:
        for name, kind in (
            ("corrupted", ObjectCorrupted),
            ("wrong_key", ObjectOfAnotherKey),
            ("unencrypted", ObjectUnencrypted),
        ):
            self._counters.add(name, isinstance(error, kind))

    def _bring_whole(self, name: str, download: Callable[[str], int], patience: float) -> int:
        try:
            return self._bring(name, self._local, download, patience)
        except (ObjectCorrupted, ObjectMissing, ObjectUnencrypted):
            copy = self._good_copy(name)
            if copy is None:
                raise
            return copy

    def _is_removed(self, name: str) -> bool:
        return os.path.exists(self._tombstones + name)

    def _fail_fast(self) -> None:
        error = self._availability.error(GET)
        if error is not None and self._availability.failed_within(GET, _FAIL_FAST):
            raise type(error)(str(error))


def _arrival(asked: Asked) -> Generator[Asked | None, bool | None, None]:
    """Where to wait until all of it can be read at once; None before what may take longer: failures are tried again."""
    while 0 < asked.missing() <= LARGEST_AWAITED:
        if (yield asked):
            return
    if not asked.is_here:
        yield None
