"""After a power cut: bring back rows that Orthanc's SQLite has lost, and finish removals whose rows have come back.

SQLite may lose the last seconds of what it has committed, in order: the index is that of a moment before. Every
attachment of those seconds is in the spool, in `pending/` or `uploaded/`, and every removal in `tombstones/` or
`removed/`; all of it was on stable storage before Orthanc acknowledged anything. `power_cut` lists the names.

    an image without a row      is posted to Orthanc again, which stores it under a new name; then the old one is buried
    a removal with a row        is made again: Orthanc is told to delete the instance. Unless other attachments of it
                                were not removed, or its file was replaced (`replacements`): that was only compressed,
                                say, and the row stays
    other attachments           Orthanc makes those of images anew; whose a user's attachment was is not known: it is
                                counted and stays in the bucket, where `isen verify` shows it

What somebody deleted does not come back. Orthanc answers a deletion after its tombstones are on stable storage; so what
has neither row nor tombstone was not deleted, or its deletion was never acknowledged. An image sent twice is
recognized: Orthanc then has it under another name. What was deleted since the start is not posted either.

Nothing is deleted but what Orthanc has under another name that is safe, and each step can be repeated: the list goes
when all is done. One thing at a time; an image is streamed from its file. With an index of a database server, which
has its own durability and other Orthancs, nothing is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from backend.atomic_file import DirectorySync
from backend.maintenance.index import IndexedAttachment, OrthancIndex
from backend.maintenance.rest import OrthancRefused, OrthancUnavailable
from backend.object_key import NOT_IMAGES
from backend.transfer import power_cut
from backend.transfer.back_off import back_off
from backend.transfer.counters import Counters
from backend.transfer.deleted_since import DeletedSince
from backend.transfer.dicom_header import as_dicom_file, is_head, orthanc_id_of
from backend.transfer.kept_names import KeptNames
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectMissing, ObjectStoreError
from backend.transfer.owners import Owners
from backend.transfer.power_cut import Recheck
from backend.transfer.replacements import is_removed, replacement

log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 30.0  # seconds until Orthanc or S3 are asked again
_ANSWERED: Final = 0.5  # seconds after which Orthanc has answered a store that it had begun
_MOST_REFUSALS: Final = 20  # 5xx answers of Orthanc to one image, over as many rounds, until it is left alone
_STORED: Final = ("Success", "AlreadyStored")
_DERIVED: Final = (".dcm.head", ".json")  # Orthanc makes them from the image


class Reconciliation:
    """Works through the list of one power cut."""

    def __init__(
        self,
        spool: Path,
        owed: Recheck | None,
        index: OrthancIndex,
        owners: Owners,
        *,
        uploaded: KeptNames,
        removed: KeptNames,
        counters: Counters,
        open_copy: Callable[[str], BinaryIO],
        is_stored: Callable[[str], bool],
        on_buried: Callable[[], None],
    ) -> None:
        """`open_copy` gives verified bytes, `is_stored` says whether spool or bucket hold an attachment.

        Until this is done nothing expires in `uploaded` and `removed`. `on_buried` is told of new tombstones.
        """
        self._spool = spool
        self._owed = owed
        self._index = index
        self._owners = owners
        self._kept = (uploaded, removed)
        self._counters = counters
        self._open = open_copy
        self._is_stored = is_stored
        self._on_buried = on_buried
        self._removals = set(owed.removed) if owed else set[str]()
        self._deleted_since = DeletedSince(spool, owners, earlier=self._removals)
        self._tombstones_sync = DirectorySync(spool / "tombstones")
        self._stopped = threading.Event()
        self._state = "Waiting" if owed else "NotNeeded"
        self._undecided = 0
        self._refusals: dict[str, int] = {}  # by name
        self._just_removed: list[str] = []  # SOPInstanceUIDs: they may have been sent while Orthanc deleted them for us
        self._is_deleting = False  # what is sent now may be dropped, because Orthanc has it still
        self._settled = 0.0  # monotonic; by then everybody was answered who sent one of these before it was deleted
        if owed:
            for folder in self._kept:
                folder.hold()

    def start(self) -> None:
        """Begin; Orthanc's REST API answers."""
        if self._owed is not None and self._state == "Waiting":
            self._state = "Running"
            threading.Thread(target=self._run, name="reconciliation", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def has_reserved(self, name: str) -> bool:
        """Whether this removal is still to be compared with the index here, so that it must not be judged elsewhere.

        Until all is deleted that is to be, any may be of what was sent at the same moment.
        """
        return self._is_deleting or (name in self._removals and self._state in ("Waiting", "Running"))

    def report(self) -> dict[str, Any]:
        owed = self._owed
        return {
            "State": self._state,
            "Stored": len(owed.stored) if owed else 0,
            "Removed": len(owed.removed) if owed else 0,
            "Undecided": self._undecided,
        }

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                self.work()
            except (OrthancUnavailable, ObjectStoreError, OSError) as error:
                failures += 1
                log.warning("reconciliation_interrupted reason=%s action=repeat", error)
                self._stopped.wait(back_off(failures, first=1.0, cap=_LONGEST_PAUSE))
            except Exception:
                log.exception("reconciliation_failed action=give_up")
                self._end("Failed")
                return
            else:
                return

    def work(self) -> None:
        """Go through the list, from its beginning.

        Raises:
            OrthancUnavailable, ObjectStoreError, OSError: some of it has to be repeated.
        """
        assert self._owed is not None  # noqa: S101 - for the type checker
        if not self._index.is_builtin():
            log.info("reconciliation_skipped reason=the index is a database server's")
            self._end("NotNeeded")
            power_cut.repaired(self._spool)
            return
        self._undecided = 0
        self._is_deleting = bool(self._owed.removed)
        images = [name for name in self._owed.stored if not name.endswith(NOT_IMAGES)]
        others = [name for name in self._owed.stored if name.endswith(NOT_IMAGES)]
        steps = [
            (self._remove_again, self._owed.removed),
            (self._store_what_was_sent, self._just_removed),
            (self._store_again, images),
            (self._look_at_other, others),
        ]
        postponed: Exception | None = None
        for step, names in steps:
            for name in list(names):
                try:
                    step(name)
                except (OrthancRefused, ObjectStoreError) as error:  # of this one; the others need not wait for it
                    postponed = error
            self._is_deleting = self._is_deleting and step == self._remove_again
        if postponed is not None:
            raise postponed
        counted = self._counters.snapshot()
        log.warning(
            "index_reconciled stored=%d restored=%d removed=%d removed_again=%d undecided=%d",
            len(self._owed.stored),
            counted["restored"],
            len(self._owed.removed),
            counted["removed_again"],
            self._undecided,
        )
        self._end("Done")
        power_cut.repaired(self._spool)

    def _end(self, state: str) -> None:
        self._state = state
        self._is_deleting = False
        for folder in self._kept:
            folder.let_go()

    def _owner(self, name: str) -> str | None:
        """The instance of an attachment; None if it is no DICOM file, or nothing is left of it."""
        try:
            return self._owners.of(name) or self._owners.of_object(name)
        except ObjectMissing:
            return None

    def _remove_again(self, name: str) -> None:
        if not self._is_removed(name):
            return  # it was taken back before an interruption
        owner = self._owner(name)
        known = self._index.with_sop_instance(owner) if owner else []
        for attachment in known:
            if attachment.name == name and attachment.attachment == "dicom":
                if self._deleted_since.by_others(owner or ""):
                    self._leave(name, "it was removed, but sent again since: Orthanc has dropped what was sent")
                elif self._was_only_replaced(attachment, known):
                    self._take_back(name, owner or "")
                elif not self._was_replaced_again(attachment, owner or ""):
                    names = {one.name for one in known if one.resource == attachment.resource}
                    self._deleted_since.expect(owner or "", names)
                    self._just_removed.append(owner or "")
                    self._index.delete_instance(attachment.resource)
                    self._settled = time.monotonic() + _ANSWERED
                    self._counters.add("removed_again")
                    log.warning("removed_again name=%s instance=%s", name, attachment.resource)
                return

    def _was_only_replaced(self, removed: IndexedAttachment, known: Sequence[IndexedAttachment]) -> bool:
        """Whether the instance was not deleted, but its file compressed, say: then its other attachments were kept."""
        others = [one.name for one in known if one.resource == removed.resource and one.name != removed.name]
        return not all(map(self._is_removed, others)) and self._is_stored(removed.name)

    def _was_replaced_again(self, removed: IndexedAttachment, owner: str) -> bool:
        """Whether the instance was not deleted, but its file written anew, and Orthanc has that one now if it wants it.

        It does if instances are overwritten: then it is another version. Otherwise the same was compressed, inflated
        or reconstructed, and it has it already. With the only instance of a study all that users have attached to that
        would go, and its metadata with any.
        """
        name = replacement(self._spool, removed.name)
        if name is None or not self._is_stored(removed.name):
            return False
        try:
            with self._open(name) as file:
                if is_head(file):
                    return False
                with as_dicom_file(file, self._spool) as dicom:
                    if orthanc_id_of(dicom) != removed.resource:
                        return False
                    is_safe = bool(self._post(name, owner, dicom))
        except (ObjectMissing, ObjectCorrupted, ValueError):
            return False
        if is_safe and any(attachment.name == removed.name for attachment in self._index.with_sop_instance(owner)):
            self._take_back(removed.name, owner)
        return True

    def _take_back(self, name: str, owner: str) -> None:
        tombstone = self._spool / "tombstones" / name
        tombstone.unlink(missing_ok=True)
        self._tombstones_sync.sync()
        if all(attachment.name != name for attachment in self._index.with_sop_instance(owner)):
            tombstone.touch(0o600)  # it was deleted at this very moment, into the tombstone that was there
            self._tombstones_sync.sync()
            return
        self._counters.add("removals_cancelled")
        log.warning("removal_cancelled name=%s reason=its instance was not deleted action=keep", name)
        self._on_buried()

    def _store_what_was_sent(self, uid: str) -> None:
        """Of what it was sent before it deleted the instance for us, Orthanc has said that it has it already."""
        self._stopped.wait(max(0.0, self._settled - time.monotonic()))
        for name in sorted(self._deleted_since.by_others(uid)):
            if self._index.with_sop_instance(uid):
                break
            try:
                with self._open(name) as file:
                    if not name.endswith(_DERIVED) and not is_head(file):
                        with as_dicom_file(file, self._spool) as dicom:
                            self._post(name, uid, dicom)
            except (ObjectMissing, ObjectCorrupted, ValueError) as error:
                self._leave(name, str(error))
        self._just_removed.remove(uid)

    def _store_again(self, name: str) -> None:
        if self._is_removed(name):
            return
        uid = self._owner(name)
        known = self._index.with_sop_instance(uid) if uid else []
        if any(attachment.name == name for attachment in known):
            return
        try:
            with self._open(name) as file:
                if uid is None or (not name.endswith(".dcm") and is_head(file)):
                    self._look_at_other(name)
                    return
                with as_dicom_file(file, self._spool) as dicom:
                    instance = orthanc_id_of(dicom)  # patients may share a SOPInstanceUID
                    known = [attachment for attachment in known if attachment.resource == instance]
                    if not known and self._deleted_since.by_others(uid):
                        self._leave(name, "an instance of its SOPInstanceUID was deleted since the start")
                    elif not known:
                        known = self._post(name, uid, dicom)
        except (ObjectMissing, ObjectCorrupted, ValueError) as error:
            self._leave(name, str(error))
            return
        self._bury_if_safe(name, known)

    def _post(self, name: str, uid: str, dicom: BinaryIO) -> list[IndexedAttachment]:
        """Have Orthanc store the image; the attachments it has of it then, none if it will not.

        Raises:
            OrthancRefused: it is to be tried again.
        """
        try:
            answer = self._index.post_instance(dicom)
            status = str(answer["Status"])
        except OrthancRefused as error:
            self._refusals[name] = self._refusals.get(name, 0) + 1
            if error.is_of_server and self._refusals[name] < _MOST_REFUSALS:
                raise
            status = str(error)
        if status not in _STORED:
            self._leave(name, f"Orthanc answered: {status}")
            return []
        self._counters.add("restored")
        log.warning("restored name=%s", name)
        return [found for found in self._index.with_sop_instance(uid) if found.resource == answer.get("ID")]

    def _look_at_other(self, name: str) -> None:
        """An attachment that is no image: bury what Orthanc has made anew, count what cannot be told."""
        if self._is_removed(name):
            return
        uid = self._owners.of(name)
        known = self._index.with_sop_instance(uid) if uid else []
        if not any(attachment.name == name for attachment in known) and not self._bury_if_safe(name, known):
            self._leave(name, "it cannot be told whose attachment it is")

    def _bury_if_safe(self, name: str, known: list[IndexedAttachment]) -> bool:
        """Bury the attachment if Orthanc has its image under another name, in the spool or in the bucket, to stay."""
        images = [found.name for found in known if found.attachment == "dicom" and not self._is_removed(found.name)]
        if any(attachment.name == name for attachment in known) or not any(map(self._is_stored, images)):
            return False
        (self._spool / "tombstones" / name).touch(0o600)
        self._tombstones_sync.sync()
        self._on_buried()
        return True

    def _leave(self, name: str, reason: str) -> None:
        self._undecided += 1
        log.error("not_reconciled name=%s reason=%s action=keep", name, reason)

    def _is_removed(self, name: str) -> bool:
        return is_removed(self._spool, name)
