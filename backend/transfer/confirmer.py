"""Says of attachments whether the object store holds them: asked, never remembered, never taken from spool or cache.

    committed     the object is there with the size Orthanc knows, and it is those bytes (see `_is_intact`)
    pending       it still waits in the spool to be uploaded, or in Orthanc's own folder to be migrated
    missing       the object store has none, nor is one owed
    corrupted     there is an object, but not of these bytes
    unavailable   the object store cannot be asked; it may be in a moment

What it costs: one HEAD each; of an encrypted object its header is read too, and proves its size and SHA-256. An object
without a SHA-256, from before Isen, whose ETag is not its MD5 is read as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any, Final, Protocol

from backend.atomic_file import read_digest
from backend.cache import cache_path
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import GET, Availability
from backend.transfer.object_store.errors import (
    ObjectCorrupted,
    ObjectMissing,
    ObjectStoreError,
    ObjectUnencrypted,
)
from backend.transfer.object_store.protocols import GetObject, HeadObject, ObjectAttributes

log = logging.getLogger(__name__)

MAXIMUM_ATTACHMENTS: Final = 200  # of one request
_CONCURRENT: Final = 8
_MD5: Final = re.compile(r"[0-9a-f]{32}")


class HeadOrGet(HeadObject, GetObject, Protocol):
    """What it takes to look at an object."""


@dataclass(frozen=True)
class Expected:
    """An attachment as Orthanc's index describes it."""

    name: str
    size: int  # bytes, as stored
    md5: str  # of the bytes as stored, hexadecimal; empty if Orthanc keeps none

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Expected:
        """One entry of a request.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        return cls(str(fields["Name"]), int(fields["Size"]), str(fields["MD5"]).lower())


class Confirmer:
    """Thread-safe."""

    def __init__(
        self,
        spool: Path,
        cache: Path,
        store: HeadOrGet,
        key: Callable[[str], str],
        availability: Availability,
        *,
        migrating_from: StorageDirectory | None = None,
    ) -> None:
        """`migrating_from` is the folder of Orthanc's own storage area while an archive moves from there to S3."""
        self._migrating_from = migrating_from
        self._availability = availability
        self._spool = spool
        self._cache = cache
        self._store = store
        self._key = key
        self._threads = ThreadPoolExecutor(_CONCURRENT, thread_name_prefix="confirm")

    def confirm(self, attachments: Sequence[Expected]) -> list[str]:
        """The state of each, in their order."""
        return list(self._threads.map(self._state, attachments))

    def _state(self, expected: Expected) -> str:
        # in this order: an upload that ends between the two looks has put its object where the second one finds it
        if self._is_in("pending", expected.name) or self._is_in("incoming", expected.name):
            return "pending"
        if self._is_in("tombstones", expected.name):
            return "missing"  # Orthanc has removed it
        if self._is_in("quarantine", expected.name):
            return "corrupted"  # whatever a server may have taken of it
        if self._availability.error(GET):
            return "unavailable"  # at once: each question would have to wait for its time-out
        try:
            return self._look(expected)
        except ObjectStoreError as error:
            log.info("confirmation_postponed name=%s reason=%s", expected.name, error)
            return "unavailable"

    def _look(self, expected: Expected) -> str:
        # before the object: what leaves that folder has got there
        is_coming = self._migrating_from is not None and self._migrating_from.has(expected.name)
        try:
            found = self._store.head(self._key(expected.name))
            is_intact = found.size == expected.size and self._is_intact(expected, found)
        except ObjectMissing:
            return "pending" if is_coming else "missing"
        except (ObjectCorrupted, ObjectUnencrypted):
            is_intact = False
        if not is_intact:
            log.error("object_differs name=%s expected_bytes=%d action=not_confirmed", expected.name, expected.size)
        return "committed" if is_intact else "corrupted"

    def _is_intact(self, expected: Expected, found: ObjectAttributes) -> bool:
        """Whether the object is these bytes, by the strongest proof at hand.

        An ETag that is the MD5 in Orthanc's index is the server's own word on the bytes it holds. Else the SHA-256
        beside the object: it was written with bytes that the server had verified against it, under a key that is used
        once; while the cache still knows the SHA-256 of what Orthanc handed over, the two must agree. Else the bytes.
        """
        if expected.md5 and found.etag.lower() == expected.md5:
            return True
        if found.digest is not None:
            return self._cached_digest(expected.name) in (None, found.digest)
        if not _MD5.fullmatch(expected.md5):
            return False
        with self._store.get(self._key(expected.name)) as content:
            hasher = md5(usedforsecurity=False)
            for chunk in content.chunks():
                hasher.update(chunk)
        return hasher.hexdigest() == expected.md5

    def _cached_digest(self, name: str) -> bytes | None:
        try:
            return read_digest(cache_path(self._cache, name))
        except OSError:
            return None  # not in the cache, or the cache is out of order: it is no proof either way

    def _is_in(self, folder: str, name: str) -> bool:
        return (self._spool / folder / name).exists()
