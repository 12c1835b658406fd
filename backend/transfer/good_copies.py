"""Another copy of an object that is missing or damaged: the one that the spool keeps for a while after the upload."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path

from backend.atomic_file import read_digest
from backend.transfer.counters import Counters
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.object_store.protocols import PutObject

log = logging.getLogger(__name__)


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
                self._store.put(self._key(name), copy, os.fstat(copy.fileno()).st_size, digest)
                log.error("object_mended name=%s reason=it was missing or damaged, the spool has a good copy", name)
                self._counters.add("mended")
            except ObjectStoreError as error:
                log.error("object_not_mended name=%s reason=%s", name, error)  # noqa: TRY400 - one line per event
            return os.open(f"/proc/self/fd/{copy.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
