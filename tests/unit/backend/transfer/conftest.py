"""A spool and a cache in real folders, a store in memory, and the parts between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.spool import Spool
from backend.storage_directory import StorageDirectory
from backend.transfer.attachment_upload import AttachmentUpload
from backend.transfer.availability import Availability, ObservedObjectStore
from backend.transfer.counters import Counters
from backend.transfer.download_slots import Priority
from backend.transfer.fetcher import Fetcher
from backend.transfer.good_copies import GoodCopies
from backend.transfer.kept_names import KeptNames
from backend.transfer.name_locks import NameLocks
from backend.transfer.read_cache import ReadCache
from backend.transfer.removals import Removals
from backend.transfer.remover import Remover
from tests.fakes.unsteady_store import UnsteadyStore

MAXIMUM_CACHE = 1_000_000  # bytes


@dataclass
class Parts:
    """What `write_path.py` and `read_path.py` wire, without threads of its own."""

    folder: Path
    store: UnsteadyStore = field(default_factory=UnsteadyStore)
    counters: Counters = field(default_factory=Counters)
    names: NameLocks = field(default_factory=NameLocks)
    availability: Availability = field(default_factory=Availability)
    dropped: list[tuple[str, int]] = field(default_factory=list)
    on_dropped: Callable[[str, int], None] | None = None  # in place of `dropped`

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder / "spool", 100_000_000)
        self.cache = ReadCache(self.folder / "cache", MAXIMUM_CACHE, self.counters)
        self.cache.recover()
        observed = ObservedObjectStore(self.store, self.availability)
        directory = self.spool.directory
        self.uploaded, self.removed = KeptNames(directory / "uploaded", 60), KeptNames(directory / "removed", 60)
        self.removals = Removals(directory / "tombstones")
        self.upload = AttachmentUpload(
            directory, self.cache, observed, str, uploaded=self.uploaded, names=self.names, counters=self.counters
        )
        self.good_copies = GoodCopies(directory, observed, str, names=self.names, counters=self.counters)
        self.fetcher = Fetcher(
            directory,
            self.cache,
            observed,
            str,
            names=self.names,
            availability=self.availability,
            counters=self.counters,
            concurrent=4,
            patience=0.6,
            good_copy=self.good_copies.use,
        )
        self.remover = self.make_remover(0.0)

    def make_remover(self, grace_period: float, storage_directory: StorageDirectory | None = None) -> Remover:
        return Remover(
            self.spool.directory,
            self.cache,
            ObservedObjectStore(self.store, self.availability),
            str,
            removals=self.removals,
            uploaded=self.uploaded,
            removed=self.removed,
            names=self.names,
            availability=self.availability,
            counters=self.counters,
            grace_period=grace_period,
            on_dropped=self.on_dropped or (lambda name, size: self.dropped.append((name, size))),
            storage_directory=storage_directory,
        )

    def fetch_ahead(self, name: str, priority: Priority = Priority.AHEAD) -> bool:
        """In this thread, which waits."""
        fetching = self.fetcher.fetch_ahead(name, priority)
        try:
            next(fetching)
            while True:
                fetching.send(True)  # noqa: FBT003 - as the generator says
        except StopIteration as end:
            return bool(end.value)

    def remove_due(self) -> int:
        self.remover.check_due()
        return self.remover.delete_due()

    def file(self, folder: str, name: str) -> Path:
        return self.spool.directory / folder / name

    def cached(self, name: str) -> Path:
        return self.folder / "cache" / "objects" / name[:2] / name


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)
