"""What keeps Orthanc's index and the attachments together: the check of removals, and the repair after power cuts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from backend.maintenance.index import OrthancIndex
from backend.maintenance.rest import Address, OrthancRest, OrthancUnavailable
from backend.storage_directory import storage_path
from backend.transfer import power_cut
from backend.transfer.availability import ObservedObjectStore
from backend.transfer.back_off import back_off
from backend.transfer.counters import Counters
from backend.transfer.good_copies import Copy, downloaded, open_verified
from backend.transfer.kept_names import KeptNames
from backend.transfer.object_store.errors import ObjectMissing
from backend.transfer.owners import Owners
from backend.transfer.reconciliation import Reconciliation
from backend.transfer.removal_check import RemovalCheck
from backend.transfer.removals import Removal, Removals
from backend.transfer.remover import Remover
from config.settings import OrthancSettings, StorageSettings, StorageStructure

_CONNECTIONS: Final = 8
_LONGEST_PAUSE: Final = 30.0  # seconds until Orthanc is asked again of which kind its index is
_READING_RATE: Final = 200.0  # requests per second while the whole index is read; Orthanc's users come first


@dataclass(frozen=True)
class Orthanc:
    """The Orthanc whose child this process is."""

    settings: OrthancSettings
    token: str = field(repr=False)
    started: float  # Unix time

    def index(self, *, legacy: bool, per_second: float = 0.0) -> OrthancIndex:
        """Its index, at most so many requests per second; 0 = no limit."""
        address = Address(self.settings.url, token=self.token, ca_certificates=self.settings.ca_certificates)
        rest = OrthancRest(address, connections=_CONNECTIONS, per_second=per_second)
        return OrthancIndex(rest, legacy=legacy, parallel=2)


class IndexGuard:
    """Waits until Orthanc answers; until then nothing of an earlier run is removed."""

    def __init__(
        self,
        settings: StorageSettings,
        orthanc: Orthanc,
        remover: Remover,
        removals: Removals,
        *,
        reads: ObservedObjectStore,
        key: Callable[[str], str],
        kept: tuple[KeptNames, KeptNames],
        counters: Counters,
        put: Callable[[str, Copy], None],
        wake: Callable[[], None],
        on_builtin: Callable[[], None],
    ) -> None:
        """Looks at once whether there was a power cut, before anything new is in the spool.

        `put` mends an object that is missing. `on_builtin` is called once Orthanc says that the index is its own: no
        other one waits for what is stored here.
        """
        self._spool = spool = settings.spool_directory
        legacy = settings.storage_structure is StorageStructure.LEGACY
        self._index = index = orthanc.index(legacy=legacy)
        self._on_builtin = on_builtin
        owners = Owners(spool, settings.cache_directory, reads, key, settings.storage_directory)
        open_copy = partial(_open_copy, spool, settings.storage_directory, reads, key)
        is_stored = partial(_is_stored, spool, settings.storage_directory, reads, key)
        self._answers = False
        self._remover = remover
        self._check = RemovalCheck(
            removals,
            spool / "tombstones",
            index,
            orthanc.index(legacy=legacy, per_second=_READING_RATE),
            owners,
            started=orthanc.started,
            counters=counters,
            is_stored=is_stored,
            open_copy=open_copy,
            put=put,
            clear=remover.clear,
            on_cancelled=wake,
        )
        self._reconciliation = Reconciliation(
            spool,
            power_cut.noticed_at_start(spool),
            index,
            owners,
            uploaded=kept[0],
            removed=kept[1],
            counters=counters,
            open_copy=open_copy,
            is_stored=is_stored,
            on_buried=wake,
        )
        remover.ask(owners, self._decide, self._reconciliation.has_reserved)

    def start(self) -> None:
        """Orthanc answers."""
        self._answers = True
        self._reconciliation.start()
        threading.Thread(target=self._tell_kind, name="index-kind", daemon=True).start()

    def stop(self) -> None:
        """Orthanc ends in order, or this process."""
        self._answers = False
        self._reconciliation.stop()

    def report(self) -> dict[str, Any]:
        return self._reconciliation.report()

    def _tell_kind(self) -> None:
        failures = 0
        while True:
            try:
                is_builtin = self._index.is_builtin()
            except OrthancUnavailable:
                failures += 1
                time.sleep(back_off(failures, first=1.0, cap=_LONGEST_PAUSE))
            else:
                break
        if is_builtin:
            self._on_builtin()
        else:
            self._remover.be_patient()

    def _decide(self, due: list[tuple[str, Removal]]) -> None:
        if self._answers:
            self._check.decide(due)


def _is_stored(
    spool: Path, storage_directory: Path | None, store: ObservedObjectStore, key: Callable[[str], str], name: str
) -> bool:
    if any((spool / folder / name).exists() for folder in ("pending", "uploaded")):
        return True
    if storage_directory and storage_path(storage_directory, name).exists():
        return True
    try:
        store.head(key(name))
    except ObjectMissing:
        return False
    return True


def _open_copy(
    spool: Path, storage_directory: Path | None, store: ObservedObjectStore, key: Callable[[str], str], name: str
) -> Copy:
    if storage_directory and (path := storage_path(storage_directory, name)).exists():
        return path.open("rb")
    return open_verified(spool, name, lambda name: downloaded(store, key(name), spool))
