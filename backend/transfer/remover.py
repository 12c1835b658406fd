"""Carries out removals: the local files at once, the object after a grace period, the tombstone last.

The tombstone stays until the store has confirmed, so a crash at any point repeats the rest. Before it goes, the folder
`pending/` is synced: a pending file that came back after a power cut without its tombstone would be uploaded again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backend.atomic_file import DirectorySync
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import DELETE, Availability
from backend.transfer.back_off import back_off
from backend.transfer.counters import Counters
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.object_store.protocols import DeleteObject
from backend.transfer.read_cache import ReadCache

log = logging.getLogger(__name__)

_THREADS: Final = 4
_BATCH: Final = 200  # deletes between two syncs of the folder
_PAUSE: Final = 0.2  # seconds between two looks at what is due
_LONGEST_PAUSE: Final = 30.0  # seconds until a failed delete is tried again


@dataclass
class _Removal:
    seen: float  # monotonic
    is_dropped: bool = False  # spool and cache hold nothing of it any more
    not_before: float = 0.0  # monotonic
    failures: int = 0


class Remover:
    """Works off the tombstones."""

    def __init__(
        self,
        spool: Path,
        cache: ReadCache,
        store: DeleteObject,
        key: Callable[[str], str],
        *,
        names: NameLocks,
        availability: Availability,
        counters: Counters,
        grace_period: float,
        on_dropped: Callable[[str, int], None],
        storage_directory: StorageDirectory | None = None,
    ) -> None:
        """`grace_period` is in seconds; `on_dropped` is told name and bytes of each pending file that was dropped.

        What lies in `storage_directory` may be the only copy, so it goes together with the object, not before.
        """
        self._storage_directory = storage_directory
        self._spool = spool
        self._cache = cache
        self._store = store
        self._key = key
        self._names = names
        self._availability = availability
        self._counters = counters
        self._grace_period = grace_period
        self._on_dropped = on_dropped
        self._lock = threading.Lock()
        self._removals: dict[str, _Removal] = {}
        self._pending_sync = DirectorySync(spool / "pending")
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="delete")

    def start(self) -> None:
        threading.Thread(target=self._run, name="remover", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def count(self) -> int:
        """Tombstones."""
        return len(self._removals)

    def refresh(self, names: set[str]) -> None:
        """Take over a listing of the tombstones."""
        with self._lock:
            for name in names - self._removals.keys():
                self._removals[name] = _Removal(time.monotonic())
            for name in self._removals.keys() - names:
                del self._removals[name]

    def drop_local(self) -> None:
        """Remove the spool and cache files of everything removed; what is being uploaded has its turn later."""
        with self._lock:
            undropped = [(name, removal) for name, removal in self._removals.items() if not removal.is_dropped]
        for name, removal in undropped:
            with self._names.if_free(name) as is_free:
                if is_free and time.monotonic() >= removal.not_before:
                    try:
                        self._drop(name)
                    except OSError as error:  # of this file; the others, and uploads, must go on
                        self._postpone(name, removal, error)
                    else:
                        removal.is_dropped = True

    def delete_due(self) -> int:
        """Delete the objects whose time has come, up to a batch of them; returns how many were due."""
        now = time.monotonic()
        with self._lock:
            due = [name for name, removal in self._removals.items() if self._is_due(name, removal, now)][:_BATCH]
        deleted = [name for name, is_deleted in zip(due, self._pool.map(self._delete, due), strict=True) if is_deleted]
        if deleted:
            self._finish(deleted)
        return len(due)

    def _finish(self, deleted: list[str]) -> None:
        """Take the tombstones away; where the disk refuses, the deletion is repeated later."""
        try:
            self._pending_sync.sync()
            for name in deleted:
                (self._spool / "tombstones" / name).unlink(missing_ok=True)
                with self._lock:
                    self._removals.pop(name, None)
        except OSError as error:
            for name in deleted:
                removal = self._removals.get(name)
                if removal is not None:
                    self._postpone(name, removal, error)

    def _run(self) -> None:
        while not self._stopped.is_set():
            due = 0
            if self._availability.wait(DELETE, 1.0):
                try:
                    due = self.delete_due()
                except Exception as error:  # noqa: BLE001 - a mistake with one removal must not end all
                    log.error("removal_failed reason=%r", error)  # noqa: TRY400 - one line per event
            if due < _BATCH:
                self._stopped.wait(_PAUSE)

    def _is_due(self, name: str, removal: _Removal, now: float) -> bool:
        if now < removal.not_before or now - removal.seen < min(self._grace_period, _PAUSE):
            return False
        try:
            buried = (self._spool / "tombstones" / name).stat().st_mtime
        except FileNotFoundError:
            return False
        except OSError as error:
            self._postpone(name, removal, error)
            return False
        age = time.time() - buried
        if age < 0:  # the clock was set back; ours since we have known of it will do
            age = now - removal.seen
        return age >= self._grace_period

    def _delete(self, name: str) -> bool:
        removal = self._removals.get(name)
        if removal is None or self._stopped.is_set() or self._availability.error(DELETE) is not None:
            return False
        with self._names.if_free(name) as is_free:
            if not is_free:
                return False  # being uploaded; it will see the tombstone
            try:
                self._drop(name)
                if self._storage_directory:
                    self._storage_directory.remove(name)
                self._store.delete(self._key(name))
            except (ObjectStoreError, OSError) as error:
                self._postpone(name, removal, error)
                return False
        self._counters.add("deletions")
        return True

    def _postpone(self, name: str, removal: _Removal, error: Exception) -> None:
        removal.failures += 1
        removal.not_before = time.monotonic() + back_off(removal.failures, first=1.0, cap=_LONGEST_PAUSE)
        if removal.failures == 1 and not getattr(error, "concerns_all", False):
            log.warning("removal_failed name=%s reason=%s", name, error)

    def _drop(self, name: str) -> None:
        path = self._spool / "pending" / name
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            pass
        else:
            self._on_dropped(name, size)
        self._cache.drop(name)
