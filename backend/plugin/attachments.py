"""Attachments as Orthanc sees them: create, read, remove, over spool, cache, Orthanc's own folder and transfer process.

A read looks for a file, here or fetched, and takes from it what was asked for: `Extract`. Bytes of a file that is known
to be damaged are never served.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import get_ident
from typing import Final

from backend.atomic_file import read_all, read_digest, read_part
from backend.cache import cache_path, open_cached
from backend.custom_data import CustomData
from backend.object_key import NOT_IMAGES
from backend.plugin.transfer_client import TransferClient, TransferError
from backend.spool import Spool
from backend.storage_directory import StorageDirectory

FETCH_TIMEOUT: Final = 120.0  # seconds for a whole object; the transfer process gives up earlier when S3 is away
_WORTH_THE_WHOLE: Final = 4  # once a quarter of an object has been fetched in ranges, it is fetched whole and cached
_LARGEST_RANGE: Final = 64 * 1024 * 1024  # bytes; both processes hold it in memory
_KNOWN_RANGES: Final = 1000  # objects
_KNOWN_THREADS: Final = 1000

Extract = Callable[[int], bytes | None]  # descriptor → the bytes wanted, or None if the file is damaged


class CorruptedAttachment(Exception):
    """The bytes at hand are not the bytes that were stored; they are not served."""


class Attachments:
    """The storage area. Thread-safe for distinct names."""

    def __init__(
        self,
        spool: Spool,
        cache: Path,
        transfer: TransferClient,
        *,
        log_error: Callable[[str], None],
        storage_directory: StorageDirectory | None = None,
    ) -> None:
        """`storage_directory` is where attachments of Orthanc's own storage area are; None if they are not read."""
        self._spool = spool
        self._storage_directory = storage_directory
        self._cache = cache
        self._transfer = transfer
        self._log_error = log_error
        self._counts = threading.Lock()
        self._fetched_in_ranges: dict[str, int] = {}  # name → bytes, the most recent last
        self._created: dict[int, str] = {}  # thread → name of what it has created last
        self._created_images: dict[int, str] = {}  # the same of images
        names = ["reads_spool", "reads_cache", "reads_s3", "reads_range", "creates", "removes", "corrupted"]
        names += ["creates_taken_over"]  # of the creates: a DICOM worker had stored the same bytes durably
        names += ["reads_storage_directory"] if storage_directory else []
        self.counters = dict.fromkeys(names, 0)

    def create_in_spool(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        """Durability "Spool": durable on the local disk when this returns. `digest` is the SHA-256 if it is known.

        Raises:
            SpoolFull, SpoolSuspect: nothing was stored.
            OSError: the disk failed; nothing was stored.
        """
        was_taken = self._spool.accept(name, content, digest)
        self._note_created(name)
        self._transfer.wake()
        self._count("creates")
        if was_taken:
            self._count("creates_taken_over")

    def create_in_object_store(self, name: str, content: bytes, timeout: float, digest: bytes | None = None) -> None:
        """Durability "ObjectStore": S3 has confirmed it when this returns.

        Raises:
            SpoolFull, SpoolSuspect, OSError: nothing was stored.
            TransferError: S3 has not confirmed it within `timeout` seconds. Should it arrive later all the same, the
                tombstone left here has it deleted.
        """
        self._spool.stage(name, content, digest)
        try:
            self._transfer.upload(name, timeout)
        except BaseException:
            self._spool.give_up(name)
            self._transfer.wake()
            raise
        self._spool.confirmed(name)
        self._note_created(name)
        self._count("creates")

    def create_in_storage_directory(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        """HybridMode "WriteToFileSystem": durable in Orthanc's own folder when this returns; S3 never gets it.

        Raises:
            OSError: the disk failed or is full; nothing was stored.
        """
        assert self._storage_directory  # noqa: S101 -- for the type checker; the settings demand it
        self._storage_directory.write(name, content, digest or sha256(content).digest())
        self._note_created(name)
        self._count("creates")

    def read(self, name: str, known: CustomData | None = None) -> bytes:
        """The whole attachment, verified against `known`, or else against its SHA-256 where its file has one.

        Raises:
            TransferError: it is not here and could not be fetched; `kind` says why.
            CorruptedAttachment: the only copy is damaged.
            OSError: it is not in S3, and Orthanc's own folder cannot be read.
        """
        return self._read(name, lambda descriptor: _whole(descriptor, known))

    def read_range(self, name: str, start: int, end: int, known: CustomData | None) -> bytes:
        """The bytes `start` to `end`, exclusive, verified; fewer if the attachment ends before.

        With digests of its chunks (`known`) only the chunks around the range are read, and if no more than a quarter of
        an object has been asked for, only they are fetched. Otherwise the whole is read, or fetched into the cache;
        but of a file that nothing is known of, as Orthanc itself has left it, the range is all.

        Raises:
            TransferError, CorruptedAttachment, OSError: as `read`.
        """
        if known is None:
            return self._read(name, lambda descriptor: _unknown_range(descriptor, start, end))
        if not known.chunk_digests or end - start >= known.size:
            return self.read(name, known)[start:end]
        first, last = known.chunks_around(start, end)

        def part(descriptor: int) -> bytes | None:
            return chunks(descriptor, first, last)

        def chunks(descriptor: int, from_byte: int, to_byte: int) -> bytes | None:
            content = read_part(descriptor, from_byte, to_byte)
            if len(content) != last - first or not known.are_chunks(first, content):
                return None
            return content[start - first : end - first]

        def fetched() -> bytes:
            if self._is_worth_a_range(name, last - first, known.size):
                descriptor = self._transfer.fetch_range(name, first, last, FETCH_TIMEOUT)
                content = _extracted(descriptor, lambda file: chunks(file, 0, last - first))
                if content is not None:
                    self._count("reads_range")
                    return content
                self._count("corrupted")
                self._log_error(f"range_corrupted name={name} start={first} end={last} action=fetch_whole")
            return self._read_object(name, part)

        return self._read(name, part, fetched)

    def remove(self, name: str) -> None:
        """Orthanc no longer refers to it: durable when this returns; the object goes later.

        What the thread has created just before goes because Orthanc could not commit it: which is in doubt if the
        index is a database server's, whose answer may have been lost. Of anything else that goes, the image that the
        thread has created last may have taken the place: it has if it is the same instance.

        Raises:
            OSError: the disk failed; the object may stay in the bucket.
        """
        thread = get_ident()
        in_doubt = self._created.pop(thread, None) == name
        image = self._created_images.get(thread)
        self._spool.bury(name, in_doubt=in_doubt, replaced_by=image if image != name else None)
        self._transfer.wake()
        self._count("removes")

    def _read(self, name: str, extract: Extract, fetch: Callable[[], bytes] | None = None) -> bytes:
        """What `extract` takes from the nearest good copy; `fetch` brings it from S3 if there is a better way."""
        content = self._read_spool(name, extract)
        if content is None:
            content = self._read_cache(name, extract)
        failure: Exception | None = None
        if content is None and self._storage_directory:
            try:
                content = self._read_storage_directory(name, extract)
            except (OSError, CorruptedAttachment) as error:
                failure = error
        if content is not None:
            return content
        try:
            return fetch() if fetch else self._read_object(name, extract)
        except TransferError as error:
            if failure is None or error.kind != "missing":
                raise
            raise failure from None  # it is not missing: the only copy is in that folder

    def _read_storage_directory(self, name: str, extract: Extract) -> bytes | None:
        assert self._storage_directory  # noqa: S101 -- for the type checker
        try:
            descriptor = self._storage_directory.open(name)
            content = None if descriptor is None else _extracted(descriptor, extract)
        except OSError as error:
            self._log_error(f"storage_directory_unreadable name={name} reason={error} action=ask_object_store")
            raise
        if descriptor is not None and content is None:
            self._count("corrupted")
            self._log_error(f"storage_directory_corrupted name={name} action=ask_object_store")
            raise CorruptedAttachment(f"the file of {name} in StorageDirectory is damaged and S3 has no other")
        if content is not None:
            self._count("reads_storage_directory")
        return content

    def _read_spool(self, name: str, extract: Extract) -> bytes | None:
        descriptor = self._spool.open(name)
        if descriptor is None:
            return None
        content = _extracted(descriptor, extract)
        if content is None:
            self._count("corrupted")
            raise CorruptedAttachment(f"the spool's copy of {name} is damaged and S3 has no other")
        self._count("reads_spool")
        return content

    def _read_cache(self, name: str, extract: Extract) -> bytes | None:
        descriptor = open_cached(self._cache, name, self._transfer.read)
        if descriptor is None:
            return None
        try:
            content = _extracted(descriptor, extract)
        except OSError:  # a bad sector, most likely; S3 has it
            content = None
        if content is None:
            self._count("corrupted")
            self._log_error(f"cache_corrupted name={name} action=fetch_again")
            cache_path(self._cache, name).unlink(missing_ok=True)
            return None
        self._count("reads_cache")
        return content

    def _read_object(self, name: str, extract: Extract) -> bytes:
        content = _extracted(self._transfer.fetch(name, FETCH_TIMEOUT), extract)
        if content is None:
            self._count("corrupted")
            raise CorruptedAttachment(
                f"the fetched copy of {name} is not what was stored: check the disk of CacheDirectory, then the object"
            )
        self._count("reads_s3")
        return content

    def _is_worth_a_range(self, name: str, length: int, size: int) -> bool:
        """Whether so little of the object has been asked for, these `length` bytes included, that the rest may stay."""
        with self._counts:
            total = self._fetched_in_ranges.pop(name, 0) + length
            if length > _LARGEST_RANGE or total * _WORTH_THE_WHOLE > size:
                return False
            self._fetched_in_ranges[name] = total
            if len(self._fetched_in_ranges) > _KNOWN_RANGES:
                del self._fetched_in_ranges[next(iter(self._fetched_in_ranges))]
            return True

    def _note_created(self, name: str) -> None:
        if len(self._created) >= _KNOWN_THREADS:
            self._created.clear()  # of threads that are no more, most likely; at worst a removal is not in doubt
        if len(self._created_images) >= _KNOWN_THREADS:
            self._created_images.clear()  # at worst what replaces another after a power cut is stored anew
        self._created[get_ident()] = name
        if not name.endswith(NOT_IMAGES):
            self._created_images[get_ident()] = name

    def _count(self, counter: str) -> None:
        with self._counts:
            self.counters[counter] += 1


def _whole(descriptor: int, known: CustomData | None) -> bytes | None:
    content = read_all(descriptor)
    digest = known.digest if known else read_digest(descriptor)
    return content if digest is None or sha256(content).digest() == digest else None


def _unknown_range(descriptor: int, start: int, end: int) -> bytes | None:
    if read_digest(descriptor) is None:
        return read_part(descriptor, start, end)
    content = _whole(descriptor, None)
    return None if content is None else content[start:end]


def _extracted(descriptor: int, extract: Extract) -> bytes | None:
    try:
        return extract(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["FETCH_TIMEOUT", "Attachments", "CorruptedAttachment", "TransferError"]
