"""Whether Orthanc's index still refers to an attachment that Orthanc has had removed: asked before anything is lost.

It should not: Orthanc removes what it has dropped from its index. But it also removes what it has just written when a
commit seems to have failed, which a lost connection to a database server may only make believe; and an index restored
from a backup refers again to what was removed since. So:

    known instance       the index is asked for it. The SOPInstanceUID was read from a local copy, or is read from the
                         object if the removal is of an earlier run of Orthanc
    unknown, this run    it goes: a commit fails seconds after the store, while there is a local copy, and an index is
                         not replaced under a running Orthanc. But what was removed by the thread that had just created
                         it, in doubt with a database server, is treated as if it were earlier
    unknown, earlier     held until the whole index has been read once, slowly, in the background

That is one request for each instance, or none at all; the reading is needed for other than DICOM files only.

What Orthanc is sent and has already it acknowledges and removes. So before such a copy goes, the one that the index
refers to must exist. If it does not, because it was lost or removed before its row came back, the copy takes its place.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest, md5
from pathlib import Path
from typing import Any, Final

from backend.atomic_file import DirectorySync
from backend.maintenance.index import IndexedAttachment, OrthancIndex
from backend.maintenance.rest import OrthancUnavailable
from backend.transfer.back_off import back_off
from backend.transfer.counters import Counters
from backend.transfer.dicom_header import orthanc_id_of
from backend.transfer.good_copies import Copy
from backend.transfer.object_store.errors import ObjectMissing, ObjectStoreError
from backend.transfer.owners import Owners
from backend.transfer.removals import Removal, Removals

log = logging.getLogger(__name__)

_THREADS: Final = 4
_LONGEST_PAUSE: Final = 30.0  # seconds until Orthanc is asked again
_STORE_PAUSE: Final = 5.0  # seconds until the object store is asked again: each question may take that long


class RemovalCheck:
    """Decides on removals whose time has come: they are cleared, cancelled, or left for later."""

    def __init__(
        self,
        removals: Removals,
        tombstones: Path,
        index: OrthancIndex,
        unhurried: OrthancIndex,
        owners: Owners,
        *,
        started: float,
        counters: Counters,
        is_stored: Callable[[str], bool],
        open_copy: Callable[[str], Copy],
        put: Callable[[str, Copy], None],
        clear: Callable[[str, Removal], None],
        on_cancelled: Callable[[], None],
    ) -> None:
        """`unhurried` is the same index, for reading all of it without being in anybody's way.

        `started` is when this Orthanc was started, in Unix time: older tombstones are of an earlier run. They are told
        apart now, because a clock that is set later makes them look young.

        `is_stored` says whether spool or bucket hold an attachment, `open_copy` gives its verified bytes, `put` takes
        those of an object that is missing; they raise ObjectStoreError. `clear` is called with what may go,
        `on_cancelled` when a tombstone has been taken away.
        """
        self._removals = removals
        self._tombstones = tombstones
        self._is_stored = is_stored
        self._open = open_copy
        self._put = put
        self._sync = DirectorySync(tombstones)
        self._index = index
        self._unhurried = unhurried
        self._owners = owners
        self._earlier = {entry.name for entry in os.scandir(tombstones) if not _is_between(entry, started, time.time())}
        self._counters = counters
        self._clear = clear
        self._on_cancelled = on_cancelled
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="check")
        self._not_before = 0.0  # monotonic; Orthanc could not be asked
        self._store_not_before = 0.0  # monotonic; the object store could not
        self._failures = 0
        self._reading = threading.Thread()

    def decide(self, due: list[tuple[str, Removal]]) -> None:
        """Ask about these, in few requests; what cannot be decided now stays as it is."""
        if time.monotonic() < self._not_before:
            return
        by_owner: dict[str, list[str]] = {}
        try:
            for name, removal in due:
                owner = self._owner(name, removal)
                if owner is not None:
                    by_owner.setdefault(owner, []).append(name)
            list(self._pool.map(self._ask, by_owner.items()))
        except OrthancUnavailable as error:
            self._failed(error)
        else:
            self._failures = 0
        self._begin_reading()

    def _owner(self, name: str, removal: Removal) -> str | None:
        """The instance to ask about; None: there is none, and what that means has been seen to."""
        try:
            removal.owner = removal.owner or self._owners.of(name)
        except OSError as error:
            self._postpone(name, removal, error)
            return None
        if removal.owner is None:
            if name in self._earlier:
                self._ask_object(name, removal)
            elif self._is_in_doubt(name) and not self._index.is_builtin():
                self._hold(name, removal)
            else:
                self._clear(name, removal)
        return removal.owner

    def _is_in_doubt(self, name: str) -> bool:
        try:
            return bool((self._tombstones / name).stat().st_size)
        except FileNotFoundError:
            return False

    def _ask_object(self, name: str, removal: Removal) -> None:
        try:
            removal.owner = self._owners.of_object(name)
        except ObjectMissing:
            if not self._owners.is_only_here(name):
                self._clear(name, removal)  # there is nothing to lose
                return
        except ObjectStoreError as error:
            self._postpone(name, removal, error)
            return
        if removal.owner is None:
            self._hold(name, removal)

    def _hold(self, name: str, removal: Removal) -> None:
        log.warning("removal_held name=%s reason=only reading the whole index can tell whether it is needed", name)
        removal.is_undecided = True

    def _postpone(self, name: str, removal: Removal, error: Exception) -> None:
        removal.failed()
        log.info("removal_check_postponed name=%s reason=%s", name, error)

    def _ask(self, group: tuple[str, list[str]]) -> None:
        owner, names = group
        known = self._index.with_sop_instance(owner)
        referenced = {attachment.name for attachment in known}
        for name in names:
            if name in referenced or not self._is_needed(name, known):
                self._settle(name, is_referenced=name in referenced, again=lambda name=name: name in self._names(owner))  # type: ignore[misc]  # mypy does not see the default

    def _is_needed(self, name: str, known: Sequence[IndexedAttachment]) -> bool:
        """Whether what was removed must stay for now, because nothing is left of the one that the index refers to.

        If the two are alike, it takes the place of that one, and may go.
        """
        removal = self._removals.get(name)
        if removal is None or not known:
            return False
        if time.monotonic() < self._store_not_before:
            removal.failed()
            return True
        try:
            lost = [attachment for attachment in known if not self._will_stay(attachment.name)]
            new = [attachment for attachment in lost if attachment.name not in removal.unlike]
            if new and self._has_replaced_one(name, removal, new):
                return False
        except (ObjectStoreError, OSError) as error:
            if getattr(error, "concerns_all", False):
                self._store_not_before = time.monotonic() + _STORE_PAUSE
            self._postpone(name, removal, error)
            return True
        if not any(removal.unlike[attachment.name] for attachment in lost):
            return False
        if new:
            log.error(
                "removal_held name=%s reason=%s is missing, and this is another version of it: delete the instance in "
                "Orthanc and send it again",
                name,
                new[0].name,
            )
        removal.failed()
        return True

    def _will_stay(self, name: str) -> bool:
        """Whether what the index refers to exists; should its removal be under way, that is decided again."""
        removal = self._removals.get(name)
        if removal is not None:
            removal.is_cleared = False
        return self._is_stored(name)

    def _has_replaced_one(self, name: str, removal: Removal, lost: Sequence[IndexedAttachment]) -> bool:
        """Whether this one has taken the place of a lost one, or is lost itself; otherwise they are noted as unlike."""
        try:
            copy = self._open(name)
        except ObjectMissing:
            return True
        with copy:
            size, digest = os.fstat(copy.fileno()).st_size, file_digest(copy, _md5).hexdigest()
            for attachment in lost:
                copy.seek(0)
                if (attachment.size, attachment.md5) == (size, digest):
                    self._put(attachment.name, copy)
                    return True
            instance = orthanc_id_of(copy)
        for one in lost:
            removal.unlike[one.name] = one.attachment == "dicom" and instance in (None, one.resource)
        return False

    def _names(self, owner: str) -> set[str]:
        return {attachment.name for attachment in self._index.with_sop_instance(owner)}

    def _settle(self, name: str, *, is_referenced: bool, again: Callable[[], bool]) -> None:
        removal = self._removals.get(name)
        if removal is None:
            return
        removal.is_undecided = False
        if not is_referenced:
            self._clear(name, removal)
            return
        tombstone = self._tombstones / name
        tombstone.unlink(missing_ok=True)
        self._sync.sync()
        if not again():  # Orthanc has removed it at this very moment, into the tombstone that was there
            tombstone.touch(0o600)
            self._sync.sync()
            return
        self._removals.pop(name)
        self._counters.add("removals_cancelled")
        log.error("removal_cancelled name=%s reason=Orthanc's index refers to it action=keep", name)
        self._on_cancelled()

    def _begin_reading(self) -> None:
        undecided = {name for name, _ in self._removals.those(lambda removal: removal.is_undecided)}
        if undecided and not self._reading.is_alive() and time.monotonic() >= self._not_before:
            self._reading = threading.Thread(target=self.read_index, args=(undecided,), name="index", daemon=True)
            self._reading.start()

    def read_index(self, undecided: set[str]) -> None:
        """Read the whole index to decide on these; in a large archive that takes hours."""
        found: set[str] = set()
        try:
            for _, attachments in self._unhurried.attachments():
                found.update(undecided.intersection(attachment.name for attachment in attachments))
        except OrthancUnavailable as error:
            self._failed(error)
            return
        log.info("index_read held=%d referenced=%d", len(undecided), len(found))
        for name in undecided:
            self._settle(name, is_referenced=name in found, again=lambda: True)

    def _failed(self, error: OrthancUnavailable) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + back_off(self._failures, first=1.0, cap=_LONGEST_PAUSE)
        if self._failures == 1:
            log.warning("removal_check_failed reason=%s action=wait", error)


def _md5() -> Any:
    return md5(usedforsecurity=False)


def _is_between(entry: os.DirEntry[str], started: float, now: float) -> bool:
    """Whether a tombstone was made in this time; what comes from the future was not."""
    return started <= entry.stat().st_mtime <= now
