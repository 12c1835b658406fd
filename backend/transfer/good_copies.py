"""Copies of an object that is missing or damaged: the one that the spool keeps for a while, or what was sent again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from hashlib import file_digest, sha256
from io import BufferedRandom, BufferedReader
from pathlib import Path
from tempfile import TemporaryFile

from backend.atomic_file import read_digest
from backend.transfer.counters import Counters
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectStoreError
from backend.transfer.object_store.protocols import GetObject, PutObject

log = logging.getLogger(__name__)

Copy = BufferedReader | BufferedRandom  # an open file


class GoodCopies:
    """Finds copies, and puts them in the place of the objects. Thread-safe."""

    def __init__(
        self, spool: Path, store: PutObject, key: Callable[[str], str], *, names: NameLocks, counters: Counters
    ) -> None:
        self._spool = spool
        self._store = store
        self._key = key
        self._names = names
        self._counters = counters

    def use(self, name: str) -> int | None:
        """A read-only descriptor of a good copy, which has been put into the bucket if that could be; else None."""
        try:
            copy = (self._spool / "uploaded" / name).open("rb")
        except FileNotFoundError:
            return None
        with copy, self._names.holding(name):
            digest = read_digest(copy.fileno())
            is_removed = (self._spool / "tombstones" / name).exists()
            if is_removed or digest is None or file_digest(copy, "sha256").digest() != digest:
                return None
            try:
                self._put(name, copy, digest)
            except ObjectStoreError as error:
                log.error("object_not_mended name=%s reason=%s", name, error)  # noqa: TRY400 - one line per event
            return os.open(f"/proc/self/fd/{copy.fileno()}", os.O_RDONLY | os.O_CLOEXEC)

    def put(self, name: str, copy: Copy) -> None:
        """Put verified bytes in the place of an object.

        Raises:
            ObjectStoreError: they may not be there.
        """
        with self._names.holding(name):
            self._put(name, copy, read_digest(copy.fileno()) or file_digest(copy, "sha256").digest())

    def _put(self, name: str, copy: Copy, digest: bytes) -> None:
        self._store.put(self._key(name), copy, os.fstat(copy.fileno()).st_size, digest)
        log.error("object_mended name=%s reason=it was missing or damaged, there is a good copy", name)
        self._counters.add("mended")


def open_verified(spool: Path, name: str, fetch: Callable[[str], Copy]) -> Copy:
    """The verified bytes of an attachment: the spool's, or else those of the bucket, which `fetch` gets.

    Raises:
        ObjectStoreError: there are none.
    """
    for folder in ("pending", "uploaded"):
        try:
            file = (spool / folder / name).open("rb")
        except FileNotFoundError:
            continue
        digest = read_digest(file.fileno())
        # Without attributes a pending file is all there is; an uploaded one may have lost its own in a power cut.
        if folder == "pending" if digest is None else digest == file_digest(file, "sha256").digest():
            file.seek(0)
            return file
        file.close()
        if folder == "pending":
            raise ObjectCorrupted(f"the spool's copy of {name} is damaged")
    return fetch(name)


def downloaded(store: GetObject, key: str, folder: Path) -> Copy:
    """The verified bytes of an object in a file of `folder` that has no name; also of what Orthanc has removed.

    Raises:
        ObjectStoreError: they cannot be had.
    """
    file = TemporaryFile(dir=folder)  # noqa: SIM115 - the caller's
    try:
        digest = sha256()
        with store.get(key) as found:
            for chunk in found.chunks():
                digest.update(chunk)
                file.write(chunk)
        if found.attributes.digest not in (None, digest.digest()):
            raise ObjectCorrupted(f"{key} does not have the SHA-256 it was stored with")
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file
