"""`isen repair`: what to do about each finding of a verification, and doing it: add first, delete last.

Nothing is changed but in the bucket, and in Orthanc by posting images to it. Every step is safe to repeat, so a
repair that was interrupted is simply run again. An object is deleted only when all of this holds: its attachment was
not in the index during verification nor in a second reading just before; it is older than the grace period; it is
not in the spool; and it is no image, or one that Orthanc has in the bucket under another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import file_digest
from io import BufferedIOBase
from itertools import islice
from tempfile import TemporaryFile
from typing import Final

from backend.atomic_file import write_digest
from backend.maintenance.catalogue import Catalogue
from backend.maintenance.content import compare
from backend.maintenance.copies import Copies, LocalCopies
from backend.maintenance.findings import Action, Deed, Finding, Kind
from backend.maintenance.heads import rebuilt_head
from backend.maintenance.local import Place
from backend.maintenance.orphans import Nature, look_at
from backend.maintenance.patience import patiently
from backend.maintenance.progress import Progress, indexed
from backend.maintenance.rest import OrthancRefused
from backend.maintenance.set_up import Archive
from backend.storage_directory import StorageDirectory
from backend.transfer.object_store.errors import ObjectError, ObjectStoreError
from backend.transfer.object_store.protocols import UnfinishedUpload

DONE: Final = "done"
_BATCH: Final = 64  # findings looked at before their actions are kept


@dataclass(frozen=True)
class RepairOptions:
    """What may be done."""

    adopt: bool = False  # post images that Orthanc does not know to it
    delete_unknown: bool = False  # delete objects of which nobody can tell whether they are needed
    maximum_share: float = 0.1  # of all objects that may be deleted; more points to the wrong Orthanc or bucket
    parallel: int = 4
    copies: tuple[Copies, ...] = ()  # to be looked through besides those of this machine


class TooManyDeletions(Exception):
    """More would be deleted than is plausible; nothing was."""


class Repair:
    """Plans and carries out; for one thread."""

    def __init__(
        self, archive: Archive, catalogue: Catalogue, options: RepairOptions, on_progress: Callable[[Progress], None]
    ) -> None:
        """`catalogue` holds the findings of a verification and takes the actions."""
        self._archive = archive
        self._catalogue = catalogue
        self._options = options
        self._on_progress = on_progress

    def plan(self) -> None:
        """Decide what to do about each finding; changes nothing.

        Raises:
            OrthancUnavailable, ObjectStoreError: it cannot be told.
        """
        self._for_each(self._decide, self._catalogue.findings(), "Looking at the findings")

    def migrate(self) -> None:
        """Upload whatever the bucket lacks, from whatever copy this machine has; nothing is deleted.

        Raises:
            OrthancUnavailable, ObjectStoreError: it could not be finished.
        """
        lacking = self._catalogue.findings(Kind.MISSING, Kind.TRUNCATED)
        self._for_each(lambda finding: Action(finding, Deed.UPLOAD, "the bucket lacks it"), lacking, "Preparing")
        self._carry_out(Deed.UPLOAD, self._upload)

    def apply(self, objects: int) -> None:
        """Do what was planned. `objects` is how many the bucket has.

        Raises:
            TooManyDeletions: all but the deletions was done.
            OrthancUnavailable, ObjectStoreError: it could not be finished.
        """
        self._carry_out(Deed.UPLOAD, self._upload)
        self._carry_out(Deed.REMOVE_FILE, self._remove_file)
        self._carry_out(Deed.ADOPT, self._adopt)
        self._carry_out(Deed.ABORT, self._abort)
        doomed = {action.finding.name for action in self._catalogue.actions(Deed.DELETE)}
        if not doomed:
            return
        if len(doomed) > self._options.maximum_share * objects:
            raise TooManyDeletions(
                f"{len(doomed)} of {objects} objects would be deleted, more than {self._options.maximum_share:.0%}, so "
                "none was; if this is the Orthanc and the bucket you mean, say --maximum-share 100"
            )
        referenced = self._referenced(doomed)
        self._carry_out(Deed.DELETE, partial(self._delete, referenced))

    def _decide(self, finding: Finding) -> Action:
        if finding.kind is Kind.STALE_UPLOAD:
            return Action(finding, Deed.ABORT, "it frees the space of its parts")
        if finding.kind is Kind.ORPHANED:
            return self._decide_orphan(finding)
        if finding.kind is Kind.DAMAGED_FILE and self._is_stored(finding):
            return Action(finding, Deed.REMOVE_FILE, "the object has the right bytes")
        for place, _ in self._copies(finding):
            deed = Deed.REMOVE_FILE if finding.kind is Kind.DAMAGED_FILE else Deed.UPLOAD
            return Action(finding, deed, f"{place} has the right bytes")
        remedy = "send the image again, or name a backup with --from-directory or --from-bucket"
        if finding.kind is Kind.UNREADABLE:
            remedy = f"correct Isen.Storage.Encryption, {remedy}"
        return Action(finding, Deed.NOTHING, f"there is no good copy; {remedy}")

    def _decide_orphan(self, finding: Finding) -> Action:
        orphan = look_at(self._archive, finding)
        if orphan.nature in (Nature.DERIVED, Nature.DUPLICATE):
            if self._options.adopt:  # what is adopted now must reach the bucket before anything goes
                return Action(finding, Deed.NOTHING, f"{orphan.reason}; a later run without --adopt deletes it")
            return Action(finding, Deed.DELETE, orphan.reason)
        if orphan.nature is Nature.UNKNOWN_INSTANCE and self._options.adopt:
            return Action(finding, Deed.ADOPT, orphan.reason)
        if orphan.nature in (Nature.UNKNOWN_INSTANCE, Nature.UNREADABLE):
            if self._options.delete_unknown and not self._options.adopt:
                return Action(finding, Deed.DELETE, orphan.reason)
            remedy = "--delete-unknown deletes it"
            if orphan.nature is Nature.UNKNOWN_INSTANCE:
                remedy = f"--adopt brings it into Orthanc, {remedy}"
            return Action(finding, Deed.NOTHING, f"{orphan.reason}; {remedy}")
        return Action(finding, Deed.NOTHING, orphan.reason)

    def _upload(self, action: Action) -> str:
        finding = action.finding
        refers = partial(self._archive.index.refers_to, finding.name, finding.path)
        for place, content in self._copies(finding):
            if not refers():
                return "Orthanc has removed it meanwhile"
            content.seek(0)
            digest = file_digest(content, "sha256").digest()
            patiently(partial(self._archive.store.put, finding.key, content, finding.size, digest))
            file = self._archive.local.find(finding.name, Place.STORAGE_DIRECTORY)
            if file and str(file.path) == place:
                with suppress(OSError):  # from now on Isen notices damage to the file, if it is kept
                    write_digest(file.path, digest)
            if not refers():  # its removal may have come before our upload
                patiently(partial(self._archive.store.delete, finding.key))
                return "Orthanc has removed it meanwhile"
            return DONE
        return "there is no good copy"

    def _remove_file(self, action: Action) -> str:
        finding, directory = action.finding, self._archive.storage_directory
        if directory is None:
            return "HybridMode is off"
        if not self._is_stored(finding):
            uploaded = self._upload(action)
            if uploaded != DONE:
                return uploaded
        StorageDirectory(directory).remove(finding.name)
        return DONE

    def _is_stored(self, finding: Finding) -> bool:
        """Whether the bucket has the right bytes; reads them."""
        try:
            return patiently(lambda: compare(self._archive.store, finding.key, finding.size, finding.md5)) is None
        except ObjectError:
            return False

    def _adopt(self, action: Action) -> str:
        orphan = look_at(self._archive, action.finding)
        if orphan.dicom is None:
            return DONE if orphan.nature in (Nature.DUPLICATE, Nature.ONLY_COPY) else orphan.reason
        status = str(self._archive.index.post_instance(orphan.dicom)["Status"])
        return DONE if status in ("Success", "AlreadyStored") else f"Orthanc answered {status}"

    def _abort(self, action: Action) -> str:
        upload = UnfinishedUpload(action.finding.key, action.finding.upload_id, 0.0)
        patiently(partial(self._archive.store.abort_upload, upload))
        return DONE

    def _delete(self, referenced: set[str], action: Action) -> str:
        finding = action.finding
        if finding.name in referenced:
            return "Orthanc refers to it after all"
        if self._archive.local.has(finding.name, Place.PENDING, Place.INCOMING):
            return "it is in the spool"
        decided = self._decide_orphan(finding)
        if decided.deed is not Deed.DELETE:
            return decided.reason
        patiently(partial(self._archive.store.delete, finding.key))
        return DONE

    def _referenced(self, names: set[str]) -> set[str]:
        """Those of the names that the index holds after all, from a second reading."""
        found: set[str] = set()
        for attachments in indexed(self._archive.index, "Reading the index again", self._on_progress):
            found.update(names.intersection(attachment.name for attachment in attachments))
        return found

    def _copies(self, finding: Finding) -> Iterator[tuple[str, BufferedIOBase]]:
        """Where there are good copies, the nearest first, and last the object of which they are the beginning; each is
        closed when the next is asked for.
        """
        for copies in (LocalCopies(self._archive.local), *self._options.copies):
            yield from copies.of(finding)
        rebuilt = rebuilt_head(self._archive, finding)
        if rebuilt is not None:
            key, content = rebuilt
            with TemporaryFile() as made:
                made.write(content)
                yield f"the beginning of {key}", made

    def _carry_out(self, deed: Deed, do: Callable[[Action], str]) -> None:
        def attempt(action: Action) -> Action:
            try:
                return replace(action, outcome=do(action))
            except OrthancRefused as error:
                return replace(action, outcome=str(error))
            except ObjectStoreError as error:
                if error.concerns_all:
                    raise
                return replace(action, outcome=str(error))

        self._for_each(attempt, self._catalogue.actions(deed), f"Repairing: {deed}")

    def _for_each(self, make: Callable[..., Action], subjects: Iterator[Finding] | Iterator[Action], step: str) -> None:
        """Make an action of each, in parallel, and keep it; at most a batch is in memory."""
        done = 0
        with ThreadPoolExecutor(self._options.parallel, thread_name_prefix="repair") as pool:
            while batch := list(islice(subjects, _BATCH)):
                for action in pool.map(make, batch):
                    self._catalogue.plan(action)
                done += len(batch)
                self._on_progress(Progress(step, done, 0))
