"""What spool and cache of this machine hold of an attachment; only looks, and follows files that move meanwhile."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from hashlib import file_digest, md5
from pathlib import Path
from typing import Any, Final

from backend.atomic_file import read_digest
from backend.cache import cache_path
from backend.storage_directory import storage_path
from config.folder_format import UnusableFormat, formats


class Place(StrEnum):
    """Where a file of an attachment lies."""

    PENDING = "pending"  # owed to the bucket
    INCOMING = "incoming"  # being stored
    QUARANTINE = "quarantine"  # damaged before its upload
    UPLOADED = "uploaded"  # the same, for a minute after the upload
    TOMBSTONE = "tombstones"  # removed by Orthanc; no bytes
    CACHE = "cache"
    STORAGE_DIRECTORY = "storage-directory"  # of Orthanc's own storage area


@dataclass(frozen=True)
class LocalFile:
    """One file of an attachment on this machine."""

    place: Place
    path: Path
    size: int  # bytes
    age: float  # seconds since it was written, read or removed
    digest: bytes | None  # the SHA-256 attached to it

    def holds(self, size: int, expected_md5: str) -> bool:
        """Whether it has these bytes, and those of its own digest; see `is_copy`.

        Raises:
            FileNotFoundError: it is gone.
        """
        with self.path.open("rb") as content:
            return is_copy(content, size, expected_md5, self.digest)


class FoldersUnreadable(Exception):
    """The spool cannot be looked into; without it nothing can be said about what is missing."""


_SPOOLED: Final = (Place.TOMBSTONE, Place.INCOMING, Place.PENDING, Place.QUARANTINE)


class LocalFiles:
    """The spool and the cache of one Orthanc, and its `StorageDirectory` if it has a part. Thread-safe."""

    def __init__(
        self, spool: Path, cache: Path, storage_directory: Path | None = None, *, spool_expected: bool = True
    ) -> None:
        """Looks into the folders once. An Orthanc that does not use Isen yet has no spool.

        Raises:
            FoldersUnreadable: they are not here, or not for this user.
        """
        self._spool = spool
        self._cache = cache
        self._storage_directory = storage_directory
        try:
            for folder, kind in formats(spool, cache).items():
                kind.check(folder)
        except UnusableFormat as error:
            raise FoldersUnreadable(str(error)) from None
        if not spool_expected and not spool.exists():
            return
        for folder in (spool / place for place in _SPOOLED):
            try:
                os.listdir(folder)
            except OSError as error:
                raise FoldersUnreadable(
                    f"{folder}: {error.strerror}; run this on the machine with Orthanc's spool, as Orthanc's user"
                ) from None

    def all(self, name: str) -> list[LocalFile]:
        """Every file of this attachment."""
        return [file for place in Place if (file := self.find(name, place)) is not None]

    def find(self, name: str, place: Place) -> LocalFile | None:
        """The file in this place, or None."""
        path = self._path(name, place)
        if path is None:
            return None
        try:
            status = path.stat()
            digest = read_digest(path)
        except FileNotFoundError:
            return None
        return LocalFile(place, path, status.st_size, max(0.0, time.time() - status.st_mtime), digest)

    def _path(self, name: str, place: Place) -> Path | None:
        if place is Place.CACHE:
            return cache_path(self._cache, name)
        if place is Place.STORAGE_DIRECTORY:
            return self._storage_directory and storage_path(self._storage_directory, name)
        return self._spool / place / name

    def has(self, name: str, *places: Place) -> bool:
        """Whether one of these places has the attachment."""
        return any(self.find(name, place) for place in places)


def is_copy(content: Any, size: int, expected_md5: str, digest: bytes | None) -> bool:
    """Whether an open file holds these bytes: of this size, MD5 and SHA-256, as far as they are known.

    With neither of the two digests known nothing is proved, and the answer is no.
    """
    if os.fstat(content.fileno()).st_size != size or (not expected_md5 and digest is None):
        return False
    content.seek(0)
    if expected_md5 and file_digest(content, lambda: md5(usedforsecurity=False)).hexdigest() != expected_md5:
        return False
    content.seek(0)
    return digest is None or file_digest(content, "sha256").digest() == digest
