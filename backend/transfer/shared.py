"""What the way into the bucket and the way out of it have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.object_key import object_key
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import Availability, ObservedObjectStore
from backend.transfer.counters import Counters
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.protocols import ObjectStore
from backend.transfer.read_cache import ReadCache
from config.settings import StorageSettings, StorageStructure


@dataclass(frozen=True)
class Shared:
    """One of each in the process."""

    settings: StorageSettings
    key: Callable[[str], str]  # of the object of an attachment
    availability: Availability
    writes: ObservedObjectStore
    reads: ObservedObjectStore
    cache: ReadCache
    storage_directory: StorageDirectory | None  # with HybridMode
    counters: Counters
    names: NameLocks

    @classmethod
    def of(
        cls, settings: StorageSettings, *, writes: ObjectStore, reads: ObjectStore, on_change: Callable[[], None]
    ) -> Shared:
        """`on_change` is called when the state of the object store is another."""
        availability = Availability(on_change)
        counters = Counters()
        legacy = settings.storage_structure is StorageStructure.LEGACY
        return cls(
            settings,
            partial(object_key, root_path=settings.root_path, legacy=legacy),
            availability,
            ObservedObjectStore(writes, availability),
            ObservedObjectStore(reads, availability),
            ReadCache(settings.cache_directory, settings.maximum_cache_size, counters),
            StorageDirectory(settings.storage_directory) if settings.storage_directory else None,
            counters,
            NameLocks(),
        )

    @property
    def spool(self) -> Path:
        return self.settings.spool_directory

    @property
    def is_legacy(self) -> bool:
        """Whether objects have keys, and attachments names, without an extension."""
        return self.settings.storage_structure is StorageStructure.LEGACY
