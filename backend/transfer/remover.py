"""Carries out removals: copies of what S3 has at once, the rest once the index is known not to refer to it.

    at once             the cache's copy goes; what S3 does not have yet is no longer uploaded, and stays
    check_due           Orthanc's index is asked (`removal_check`). It does not know the attachment: the copy in
                        `pending/` goes. It does: the tombstone goes, and an alarm is raised
    delete_due          after the grace period the object goes, the tombstone last

The tombstone stays until the store has confirmed, so a crash at any point repeats the rest. Before it goes, the folders
are synced: a file that came back after a power cut without its tombstone would be taken for one that must be kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from backend.atomic_file import DirectorySync
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import DELETE, Availability
from backend.transfer.counters import Counters
from backend.transfer.kept_names import KeptNames
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.object_store.protocols import DeleteObject
from backend.transfer.owners import Owners
from backend.transfer.read_cache import ReadCache
from backend.transfer.removals import BATCH, Removal, Removals

log = logging.getLogger(__name__)

_THREADS: Final = 4
_PAUSE: Final = 0.2  # seconds between two looks at what is due
_CHECKED_AFTER: Final = 10.0  # seconds; a commit that was cut off is over by then, and the spool wants its space back

Decide = Callable[[list[tuple[str, Removal]]], None]


class Remover:
    """Works off the tombstones."""

    def __init__(
        self,
        spool: Path,
        cache: ReadCache,
        store: DeleteObject,
        key: Callable[[str], str],
        *,
        removals: Removals,
        uploaded: KeptNames,
        removed: KeptNames,
        names: NameLocks,
        availability: Availability,
        counters: Counters,
        grace_period: float,
        on_dropped: Callable[[str, int], None],
        storage_directory: StorageDirectory | None = None,
    ) -> None:
        """`grace_period` is in seconds. Without `ask` everything may go.

        `on_dropped` is told name and bytes of each pending file that was dropped.

        What lies in `storage_directory` may be the only copy, so it goes together with the object, not before.
        """
        self._storage_directory = storage_directory
        self._spool = spool
        self._cache = cache
        self._store = store
        self._key = key
        self._removals = removals
        self._uploaded = uploaded
        self._removed = removed
        self._owners: Owners | None = None
        self._names = names
        self._availability = availability
        self._counters = counters
        self._grace_period = grace_period
        self._checked_after = min(grace_period, _CHECKED_AFTER)
        self._on_dropped = on_dropped
        self._decide: Decide = self._clear_all
        self._is_reserved: Callable[[str], bool] = lambda _: False
        self._pending_sync = DirectorySync(spool / "pending")
        self._tombstones_sync = DirectorySync(spool / "tombstones")
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="delete")

    def ask(self, owners: Owners, decide: Decide, is_reserved: Callable[[str], bool]) -> None:
        """From now on let `decide` say what may go, but not of what `is_reserved`: somebody else is at it."""
        self._owners = owners
        self._decide = decide
        self._is_reserved = is_reserved

    def be_patient(self) -> None:
        """The index is a database server's: a commit that was cut off may still be under way there."""
        self._checked_after = _CHECKED_AFTER

    def start(self) -> None:
        threading.Thread(target=self._run, name="remover", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def drop_local(self) -> None:
        """Remove the copies of what S3 has too; what is being uploaded has its turn later."""
        for name, removal in self._removals.those(lambda removal: not removal.is_dropped):
            with self._names.if_free(name) as is_free:
                if is_free and time.monotonic() >= removal.not_before:
                    self._try(name, removal, partial(self._drop_copies, name, removal))

    def check_due(self) -> None:
        """Have it decided whether the index refers to what is due, up to a batch."""
        after = self._checked_after
        due = self._removals.due(lambda removal: not (removal.is_cleared or removal.is_undecided), after)
        if self._are_durable(due):  # before the last local copy goes, too
            self._decide([(name, removal) for name, removal in due if not self._is_reserved(name)])

    def clear(self, name: str, removal: Removal) -> None:
        """The index does not refer to it: the last local copy may go, and then the object."""
        with self._names.if_free(name) as is_free:
            if is_free:  # otherwise it is being uploaded, and decided again
                removal.is_cleared = self._try(name, removal, partial(self._drop_all, name, removal))

    def delete_due(self) -> int:
        """Delete the objects whose time has come, up to a batch of them; returns how many were due."""
        due = [name for name, _ in self._removals.due(lambda removal: removal.is_cleared, self._grace_period)]
        deleted = [name for name, is_deleted in zip(due, self._pool.map(self._delete, due), strict=True) if is_deleted]
        if deleted:
            self._finish(deleted)
        return len(due)

    def _are_durable(self, removals: list[tuple[str, Removal]]) -> bool:
        """Make the tombstones outlive a power cut; whether they do.

        The plugin syncs them as well, but they are seen before that is done. Were the object gone and the tombstone
        after all not there, nobody would know any more that it was removed.
        """
        if not removals:
            return True
        try:
            self._tombstones_sync.sync()
        except OSError as error:
            log.warning("removal_failed reason=%s", error)
            for _, removal in removals:
                removal.failed()
            return False
        return True

    def _run(self) -> None:
        while not self._stopped.is_set():
            due = 0
            try:
                self.check_due()
                if self._availability.wait(DELETE, _PAUSE):
                    due = self.delete_due()
            except Exception as error:  # noqa: BLE001 - a mistake with one removal must not end all
                log.error("removal_failed reason=%s", error)  # noqa: TRY400 - one line per event
            if due < BATCH:
                self._stopped.wait(_PAUSE)

    def _clear_all(self, due: list[tuple[str, Removal]]) -> None:
        for name, removal in due:
            self.clear(name, removal)

    def _delete(self, name: str) -> bool:
        removal = self._removals.get(name)
        if removal is None or self._stopped.is_set() or self._availability.error(DELETE) is not None:
            return False
        with self._names.if_free(name) as is_free:
            if not is_free:
                return False  # being uploaded; it will see the tombstone
            if not self._try(name, removal, partial(self._delete_all, name, removal)):
                return False
        self._counters.add("deletions")
        return True

    def _delete_all(self, name: str, removal: Removal) -> None:
        self._drop_all(name, removal)  # again: it may have been uploaded since
        if self._storage_directory:
            self._storage_directory.remove(name)
        self._store.delete(self._key(name))

    def _try(self, name: str, removal: Removal, action: Callable[[], None]) -> bool:
        """Whether it succeeded; if not, this removal has another try later, and the others go on."""
        try:
            action()
        except (ObjectStoreError, OSError) as error:
            removal.failed()
            if removal.failures == 1 and not getattr(error, "concerns_all", False):
                log.warning("removal_failed name=%s reason=%s", name, error)
            return False
        except Exception as error:  # noqa: BLE001 - a mistake with one removal must not keep the others waiting
            removal.failed()
            log.error("removal_failed name=%s reason=%r", name, error)  # noqa: TRY400 - one line per event
            return False
        return True

    def _finish(self, names: list[str]) -> None:
        """Take the tombstones away; where the disk refuses, the deletion is repeated later."""
        removals = [(name, removal) for name in names if (removal := self._removals.get(name))]
        try:
            self._sync()
        except OSError as error:
            log.warning("removal_failed reason=%s", error)
            for _, removal in removals:
                removal.failed()
            return
        for name, removal in removals:
            self._try(name, removal, partial(self._end, name, removal))

    def _sync(self) -> None:
        self._pending_sync.sync()
        self._uploaded.sync()

    def _end(self, name: str, removal: Removal) -> None:
        tombstone = self._spool / "tombstones" / name
        if removal.owner is None:
            tombstone.unlink(missing_ok=True)
        else:
            with suppress(FileNotFoundError):  # somebody has taken it away by hand
                self._removed.take(name, tombstone)
        self._removals.pop(name)

    def _drop_all(self, name: str, removal: Removal) -> None:
        self._drop_copies(name, removal)
        self._drop_pending(name)

    def _drop_copies(self, name: str, removal: Removal) -> None:
        if self._owners is not None and removal.owner is None:
            removal.owner = self._owners.of(name)
        self._uploaded.drop(name)
        self._cache.drop(name)
        removal.is_dropped = True

    def _drop_pending(self, name: str) -> None:
        path = self._spool / "pending" / name
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            pass
        else:
            self._on_dropped(name, size)
