"""Which instance a removed attachment is of: read from a local copy before that goes, else from the object.

The note is an attribute of the tombstone: it goes where that goes, and stays over a restart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Final, Protocol

from backend.cache import cache_path
from backend.storage_directory import storage_path
from backend.transfer.dicom_header import ENOUGH, sop_instance_uid
from backend.transfer.object_store.protocols import GetRange, HeadObject

_ATTRIBUTE: Final = "user.isen.instance"  # SOPInstanceUID
_NOT_NOW: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class HeadAndRange(HeadObject, GetRange, Protocol):
    """What it takes to read the beginning of an object."""


class Owners:
    """Finds SOPInstanceUIDs of attachments. Thread-safe."""

    def __init__(
        self,
        spool: Path,
        cache: Path,
        store: HeadAndRange,
        key: Callable[[str], str],
        storage_directory: Path | None = None,
    ) -> None:
        """`storage_directory` is Orthanc's own, with HybridMode."""
        self._storage_directory = storage_directory
        self._spool = spool
        self._cache = cache
        self._store = store
        self._key = key

    def of(self, name: str) -> str | None:
        """What was noted, or what a local copy says; None: there is no copy that can be read, or it is no DICOM file.

        Raises:
            OSError: no file can be opened now.
        """
        for folder in ("tombstones", "removed"):
            try:
                return os.getxattr(self._spool / folder / name, _ATTRIBUTE).decode()
            except (OSError, UnicodeDecodeError):
                continue  # not there, or without a note that can be read
        for path in (*self._only_copies(name), self._spool / "uploaded" / name, cache_path(self._cache, name)):
            try:
                with path.open("rb") as file:
                    return self._note(name, sop_instance_uid(file))
            except OSError as error:
                if error.errno in _NOT_NOW:
                    raise
        return None

    def is_only_here(self, name: str) -> bool:
        """Whether there is a local copy that may be the only one."""
        return any(path.exists() for path in self._only_copies(name))

    def _only_copies(self, name: str) -> Iterator[Path]:
        yield self._spool / "pending" / name
        if self._storage_directory:
            yield storage_path(self._storage_directory, name)

    def of_object(self, name: str) -> str | None:
        """What the object's first bytes say; None if it is no DICOM file.

        Raises:
            ObjectMissing: there is no object.
            ObjectStoreError: it cannot be told now.
        """
        size = self._store.head(self._key(name)).size
        beginning = self._store.get_range(self._key(name), 0, min(size, ENOUGH)) if size else b""
        return self._note(name, sop_instance_uid(BytesIO(beginning)))

    def _note(self, name: str, owner: str | None) -> str | None:
        if owner is not None:
            try:
                os.setxattr(self._spool / "tombstones" / name, _ATTRIBUTE, owner.encode())
            except OSError:
                pass  # this file system keeps none, or there is no tombstone: it can be found out again
        return owner
