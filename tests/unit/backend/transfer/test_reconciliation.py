"""After a power cut: rows that are lost come back, removals whose rows come back are made again, and no more."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest

from backend.maintenance.content import orthanc_id
from backend.maintenance.rest import OrthancRefused, OrthancUnavailable
from backend.stack.processes import wait_until
from backend.transfer import reconciliation
from backend.transfer.good_copies import Copy, downloaded, open_verified
from backend.transfer.object_store.errors import ObjectMissing, Unreachable
from backend.transfer.owners import Owners
from backend.transfer.power_cut import Recheck
from backend.transfer.reconciliation import Reconciliation
from config.folder_format import DIGEST_ATTRIBUTE
from tests.fakes.images import made_up_ct
from tests.fakes.transfer_child import name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import Parts
from tests.unit.backend.transfer.fake_index import FakeIndex

NAME, HEAD, JSON, NOTE = name_of(1), name_of(1, ".dcm.head"), name_of(1, ".json"), name_of(1, ".unk")
LEGACY, LEGACY_HEAD = name_of(1, ""), name_of(2, "")


def image(*, pixels: bool = True, patient_id: str = "MADE-UP-1") -> tuple[str, bytes]:
    data_set = made_up_ct("1.2.3", "1.2.3.4", 1, side=16)
    data_set.PatientID = patient_id
    data_set.SOPInstanceUID = "1.2.3.4.5"
    if not pixels:
        del data_set.PixelData
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return str(data_set.SOPInstanceUID), buffer.getvalue()


UID, IMAGE = image()
_, BEGINNING = image(pixels=False)
INSTANCE = orthanc_id(IMAGE) or ""
COMPRESSED = struct.pack("<Q", len(IMAGE)) + zlib.compress(IMAGE)  # as StorageCompression does


class Aftermath:
    """Parts and an index after a power cut."""

    def __init__(self, folder: Path) -> None:
        self.parts = Parts(folder)
        self.index = FakeIndex()
        self.index.uids[INSTANCE] = UID
        self.index.on_removed = self.parts.spool.bury
        self.buried = 0

    def store(self, name: str, content: bytes, *, uploaded: bool = False) -> None:
        self.parts.spool.accept(name, content)
        if uploaded:
            self.parts.upload.upload_pending(name)

    def send(self, *names: str) -> None:
        """Somebody sends an instance that Orthanc has already."""
        for name in names:
            self.store(name, BEGINNING if name in (HEAD, LEGACY_HEAD) else IMAGE)
            self.parts.spool.bury(name)

    def reconcile(self, *stored: str, removed: tuple[str, ...] = ()) -> Reconciliation:
        made = self.make(*stored, removed=removed)
        made.work()
        return made

    def make(self, *stored: str, removed: tuple[str, ...] = ()) -> Reconciliation:
        parts = self.parts
        directory = parts.spool.directory
        (directory / "recheck.json").touch()
        return Reconciliation(
            directory,
            Recheck(list(stored), list(removed)),
            self.index,  # type: ignore[arg-type]  # the same calls
            Owners(directory, parts.folder / "cache", parts.store, str),
            uploaded=parts.uploaded,
            removed=parts.removed,
            counters=parts.counters,
            open_copy=self.open_copy,
            is_stored=self.is_stored,
            on_buried=self.on_buried,
        )

    def open_copy(self, name: str) -> Copy:
        spool = self.parts.spool.directory
        return open_verified(spool, name, lambda name: downloaded(self.parts.store, name, spool))

    def is_stored(self, name: str) -> bool:
        return any(name in names.values() for names in self.index.instances.values())

    def on_buried(self) -> None:
        self.buried += 1

    def tombstones(self) -> list[str]:
        return sorted(os.listdir(self.parts.file("tombstones", "")))

    def counted(self, name: str) -> int:
        return self.parts.counters.snapshot()[name]

    @property
    def is_done(self) -> bool:
        return not self.parts.file("recheck.json", "").exists()


@pytest.fixture
def after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aftermath:
    monkeypatch.setattr(reconciliation, "_ANSWERED", 0.01)
    return Aftermath(tmp_path)


@pytest.mark.parametrize("uploaded", [False, True])
def test_an_image_without_a_row_is_stored_again_and_its_old_name_buried(after: Aftermath, uploaded: bool) -> None:
    after.store(NAME, IMAGE, uploaded=uploaded)
    made = after.reconcile(NAME)
    assert after.index.posted == [IMAGE]
    assert after.tombstones() == [NAME]
    assert after.buried == 1
    assert after.is_done
    assert made.report() == {"State": "Done", "Stored": 1, "Removed": 0, "Undecided": 0}
    assert after.counted("restored") == 1


def test_an_image_with_its_row_is_left_alone(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.index.add(INSTANCE, NAME)
    after.reconcile(NAME)
    assert after.index.posted == []
    assert after.tombstones() == []


def test_an_image_that_was_sent_again_meanwhile_is_only_buried(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.index.add(INSTANCE, name_of(9))
    after.reconcile(NAME)
    assert after.index.posted == []
    assert after.tombstones() == [NAME]


@pytest.mark.parametrize("answer", ["Success", "AlreadyStored"])
def test_an_image_is_not_taken_for_that_of_another_patient_with_the_same_uid(after: Aftermath, answer: str) -> None:
    """A PatientID was corrected and the image sent again: Orthanc has two instances, and has lost the row of one."""
    _, corrected = image(patient_id="MADE-UP-2")
    after.index.add(INSTANCE, name_of(9))
    after.index.answers = [answer]
    after.store(NAME, corrected)
    after.reconcile(NAME)
    assert after.index.posted == ([corrected] if answer == "Success" else [])
    assert after.tombstones() == ([NAME] if answer == "Success" else [])  # buried only if its own instance is safe


def test_nothing_is_buried_while_the_other_copy_is_not_safe(after: Aftermath, monkeypatch: pytest.MonkeyPatch) -> None:
    after.store(NAME, IMAGE)
    after.index.add(INSTANCE, name_of(9))
    monkeypatch.setattr(after, "is_stored", lambda _: False)
    after.reconcile(NAME)
    assert after.tombstones() == []


def test_what_has_a_tombstone_was_deleted_and_stays_so(after: Aftermath) -> None:
    for name in (NAME, NOTE):
        after.store(name, IMAGE)
        after.parts.spool.bury(name)
    after.reconcile(NAME, NOTE)
    assert after.index.posted == []


def test_what_was_stored_again_and_deleted_since_the_start_stays_deleted(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    made = after.make(NAME)
    after.store(name_of(9), IMAGE)
    after.parts.spool.bury(name_of(9))
    made.work()
    assert after.index.posted == []
    assert after.tombstones() == [name_of(9)]


def test_an_image_is_not_forgotten_because_that_of_another_patient_was_deleted_since_the_start(
    after: Aftermath,
) -> None:
    """Only the SOPInstanceUID of what was deleted is known: it may have been another instance of it."""
    _, corrected = image(patient_id="MADE-UP-2")
    after.index.add(INSTANCE, name_of(8))
    after.store(NAME, corrected)
    made = after.make(NAME)
    after.store(name_of(9), IMAGE)
    after.parts.spool.bury(name_of(9))
    made.work()
    assert after.index.posted == []
    assert made.report()["Undecided"] == 1


def test_a_removal_of_something_else_since_the_start_does_not_matter(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    made = after.make(NAME)
    after.parts.spool.bury(NOTE)
    made.work()
    assert after.index.posted == [IMAGE]


def test_the_head_goes_with_the_image_it_was_the_head_of(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.store(HEAD, BEGINNING)
    after.reconcile(NAME, HEAD)
    assert after.tombstones() == [NAME, HEAD]


def test_a_head_with_its_row_is_left_alone(after: Aftermath) -> None:
    after.store(HEAD, BEGINNING)
    after.index.add(INSTANCE, HEAD, "dicom-until-pixel-data")
    after.reconcile(HEAD)
    assert after.tombstones() == []


def test_a_head_is_never_taken_for_an_image(after: Aftermath) -> None:
    """With the structure "legacy" names do not tell them apart: posted, it would be an image without pixels."""
    after.store(LEGACY_HEAD, BEGINNING)
    made = after.reconcile(LEGACY_HEAD)
    assert after.index.posted == []
    assert made.report()["Undecided"] == 1
    after.store(LEGACY, IMAGE)
    after.reconcile(LEGACY, LEGACY_HEAD)
    assert after.index.posted == [IMAGE]
    assert after.tombstones() == sorted([LEGACY, LEGACY_HEAD])


@pytest.mark.parametrize("name", [NOTE, JSON, LEGACY])
def test_what_is_no_image_is_kept_and_counted(after: Aftermath, name: str, caplog: pytest.LogCaptureFixture) -> None:
    after.store(name, b"{}")
    made = after.reconcile(name)
    assert made.report()["Undecided"] == 1
    assert after.parts.file("pending", name).exists()
    assert f"not_reconciled name={name}" in caplog.text


def test_a_removal_whose_row_came_back_is_made_again(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.parts.spool.bury(NAME)
    after.index.add(INSTANCE, NAME)
    made = after.make(removed=(NAME,))
    assert made.has_reserved(NAME)
    made.work()
    assert after.index.instances == {}
    assert not made.has_reserved(NAME)
    assert after.counted("removed_again") == 1


def test_a_removal_whose_object_is_gone_too_is_made_again(after: Aftermath) -> None:
    after.store(NAME, IMAGE, uploaded=True)
    after.parts.spool.bury(NAME)
    after.parts.removals.refresh({NAME})
    Owners(after.parts.spool.directory, after.parts.folder / "cache", after.parts.store, str).of(NAME)
    after.parts.removed.take(NAME, after.parts.file("tombstones", NAME))
    after.parts.file("uploaded", NAME).unlink()
    after.parts.cached(NAME).unlink()
    after.parts.store.delete(NAME)
    after.index.add(INSTANCE, NAME)
    after.reconcile(removed=(NAME,))
    assert after.index.instances == {}
    assert after.tombstones() == [NAME]  # Orthanc has removed it again


def test_a_removal_is_made_again_only_of_what_it_removed(after: Aftermath) -> None:
    """The row of the head alone, or of the same instance stored anew, does not tell that the instance was deleted."""
    after.parts.store.put_foreign(HEAD, BEGINNING)
    after.parts.store.put_foreign(NAME, IMAGE)
    for name in (HEAD, NAME, NOTE):
        after.parts.spool.bury(name)
    after.index.add(INSTANCE, HEAD, "dicom-until-pixel-data")
    after.index.add(INSTANCE, name_of(9))
    after.reconcile(removed=(HEAD, NAME, NOTE))
    assert after.index.instances
    assert after.counted("removed_again") == 0


def test_an_image_that_replaced_another_in_the_lost_seconds_replaces_it_again(after: Aftermath) -> None:
    """OverwriteInstances: the index is back at the old attachment, which has a tombstone; the new one has no row."""
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    after.index.add(INSTANCE, HEAD, "dicom-until-pixel-data")
    after.parts.spool.bury(HEAD)
    after.store(NAME, IMAGE)
    after.reconcile(NAME, removed=(name_of(5), HEAD))
    assert after.index.posted == [IMAGE]
    assert set(after.index.instances[INSTANCE].values()).isdisjoint({NAME, name_of(5), HEAD})


def test_the_image_that_replaced_another_is_not_buried_for_the_one_that_goes(after: Aftermath) -> None:
    """Orthanc cannot delete the old one now: once it can, neither would be left."""
    after.parts.store.put_foreign(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    after.store(NAME, IMAGE)
    after.index.refusals = [OrthancRefused("DELETE was answered 503", is_of_server=True)]
    made = after.make(NAME, removed=(name_of(5),))
    with pytest.raises(OrthancRefused):
        made.work()
    assert after.tombstones() == [name_of(5)]
    made.work()
    assert after.index.posted == [IMAGE]


def test_a_removal_is_not_made_again_once_the_image_was_sent_again(after: Aftermath) -> None:
    """Orthanc answered that it has it already, and dropped what was sent: the old copy is the only one."""
    after.store(NAME, IMAGE)
    after.parts.spool.bury(NAME)
    after.index.add(INSTANCE, NAME)
    made = after.make(removed=(NAME,))
    after.store(name_of(9), IMAGE)
    after.parts.spool.bury(name_of(9))
    made.work()
    assert after.index.instances
    assert made.report()["Undecided"] == 1


@pytest.mark.parametrize("order", [(IMAGE, COMPRESSED), (COMPRESSED, IMAGE)])
def test_an_instance_whose_file_was_only_compressed_or_inflated_is_not_deleted(
    after: Aftermath, order: tuple[bytes, bytes]
) -> None:
    """What users have attached to it would go with it."""
    old, new = order
    after.store(name_of(5), old)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    after.index.add(INSTANCE, NOTE, "1024")
    after.store(NAME, new)
    after.reconcile(NAME, removed=(name_of(5),))
    assert after.index.instances == {INSTANCE: {"dicom": name_of(5), "1024": NOTE}}
    assert after.index.posted == []
    assert after.tombstones() == [NAME]
    assert after.counted("removals_cancelled") == 1


def test_a_removal_is_not_taken_back_if_the_instance_is_deleted_at_that_moment(after: Aftermath) -> None:
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    after.index.add(INSTANCE, NOTE, "1024")
    made = after.make(removed=(name_of(5),))
    after.index.before_answer = lambda: after.index.instances.clear() if after.index.questions == 2 else None
    made.work()
    assert after.tombstones() == [name_of(5)]
    assert after.counted("removals_cancelled") == 0


def test_an_instance_whose_old_file_is_gone_is_deleted_and_the_new_one_stored(
    after: Aftermath, monkeypatch: pytest.MonkeyPatch
) -> None:
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    after.index.add(INSTANCE, NOTE, "1024")
    after.store(NAME, COMPRESSED)
    monkeypatch.setattr(after, "is_stored", lambda name: name != name_of(5))
    after.reconcile(NAME, removed=(name_of(5),))
    assert after.counted("removed_again") == 1
    assert after.index.posted == [IMAGE]


OLD = name_of(5)


def replaced(after: Aftermath, new: bytes = IMAGE, by: str = NAME) -> None:
    """Orthanc has written `new` in the place of OLD and its head, and the index has lost that."""
    after.store(OLD, IMAGE)
    for name, attachment in ((OLD, "dicom"), (HEAD, "dicom-until-pixel-data")):
        after.parts.spool.bury(name, replaced_by=by)
        after.index.add(INSTANCE, name, attachment)
    after.store(NAME, new)


@pytest.mark.parametrize("new", [IMAGE, COMPRESSED])
def test_an_instance_that_was_reconstructed_is_not_deleted(after: Aftermath, new: bytes) -> None:
    """What users have attached to its study might go with it, and its metadata would."""
    replaced(after, new)
    rows = {INSTANCE: dict(after.index.instances[INSTANCE])}
    after.index.answers = ["AlreadyStored"]
    after.reconcile(NAME, removed=(OLD, HEAD))
    assert after.index.instances == rows
    assert after.tombstones() == sorted([NAME, HEAD])  # that of the head goes when the index is asked
    assert after.counted("removals_cancelled") == 1
    assert after.counted("removed_again") == 0


def test_an_instance_that_was_overwritten_is_overwritten_again_and_not_deleted(after: Aftermath) -> None:
    replaced(after)
    after.reconcile(NAME, removed=(OLD, HEAD))
    assert after.index.posted == [IMAGE]
    assert OLD not in after.index.instances[INSTANCE].values()
    assert after.tombstones() == sorted([OLD, NAME, HEAD])
    assert after.counted("removed_again") == 0


def test_an_instance_that_was_reconstructed_is_not_deleted_when_the_repair_is_taken_up_again(after: Aftermath) -> None:
    replaced(after)
    after.index.answers = ["AlreadyStored"]
    after.reconcile(NAME, removed=(OLD, HEAD))
    after.reconcile(NAME, removed=(OLD, HEAD))
    assert after.index.instances[INSTANCE]["dicom"] == OLD
    assert after.tombstones() == sorted([NAME, HEAD])


def test_an_instance_that_was_reconstructed_and_then_deleted_is_deleted_again(after: Aftermath) -> None:
    replaced(after)
    after.parts.spool.bury(NAME)
    after.reconcile(removed=(OLD, HEAD, NAME))
    assert after.index.instances == {}
    assert after.index.posted == []


@pytest.mark.parametrize("what", ["another instance", "a head", "damaged", "missing"])
def test_an_instance_is_deleted_again_if_nothing_has_taken_its_place(after: Aftermath, what: str) -> None:
    """The same thread of Orthanc has stored something before."""
    other = {"another instance": image(patient_id="MADE-UP-2")[1], "a head": BEGINNING}.get(what, IMAGE)
    replaced(after, other, by=LEGACY_HEAD)
    if what != "missing":
        after.store(LEGACY_HEAD, other)
    if what == "damaged":
        after.parts.file("pending", LEGACY_HEAD).write_bytes(b"\0" * len(IMAGE))
    after.reconcile(removed=(OLD, HEAD))
    assert after.counted("removed_again") == 1
    assert after.index.posted == []


def test_an_instance_whose_new_file_orthanc_does_not_want_keeps_both(after: Aftermath) -> None:
    replaced(after)
    after.index.answers = ["FilteredOut"]
    made = after.reconcile(NAME, removed=(OLD, HEAD))
    assert after.index.instances[INSTANCE]["dicom"] == OLD
    assert after.tombstones() == sorted([OLD, HEAD])
    assert made.report()["Undecided"] == 1


def test_an_instance_that_was_reconstructed_but_whose_old_file_is_gone_is_deleted_and_the_new_one_stored(
    after: Aftermath, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(after)
    monkeypatch.setattr(after, "is_stored", lambda name: name != OLD)
    after.reconcile(NAME, removed=(OLD, HEAD))
    assert after.counted("removed_again") == 1
    assert after.index.posted == [IMAGE]


def test_what_is_sent_at_the_moment_of_its_deletion_is_stored_again(after: Aftermath) -> None:
    """Orthanc has said that it has it already, and dropped it."""
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    made = after.make(removed=(name_of(5),))
    reserved = []

    def send(_name: str) -> None:
        after.send(NAME, HEAD, LEGACY_HEAD)
        reserved.append(made.has_reserved(NAME))

    after.index.on_removed = send
    made.work()
    assert after.index.posted == [IMAGE]
    assert after.counted("removed_again") == 1
    assert not made._just_removed
    assert reserved == [True]
    assert not made.has_reserved(NAME)


def test_a_head_that_is_sent_at_the_moment_of_its_deletion_is_no_image(after: Aftermath) -> None:
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))
    after.index.on_removed = lambda _: after.send(HEAD, LEGACY_HEAD)
    after.reconcile(removed=(name_of(5),))
    assert after.index.posted == []


def test_what_is_sent_after_its_deletion_needs_no_help(after: Aftermath) -> None:
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))

    def send(_name: str) -> None:
        after.send(NAME)
        after.index.before_answer = lambda: after.index.add(INSTANCE, name_of(9))

    after.index.on_removed = send
    after.reconcile(removed=(name_of(5),))
    assert after.index.posted == []


def test_what_was_sent_and_is_damaged_is_counted(after: Aftermath) -> None:
    after.store(name_of(5), IMAGE)
    after.parts.spool.bury(name_of(5))
    after.index.add(INSTANCE, name_of(5))

    def send(_name: str) -> None:
        after.send(NAME)
        Owners(after.parts.spool.directory, after.parts.folder / "cache", after.parts.store, str).of(NAME)
        after.parts.file("pending", NAME).write_bytes(b"damaged")

    after.index.on_removed = send
    made = after.reconcile(removed=(name_of(5),))
    assert after.index.posted == []
    assert made.report()["Undecided"] == 1


def test_the_bytes_come_from_the_bucket_if_the_copy_here_did_not_survive(after: Aftermath) -> None:
    after.store(NAME, IMAGE, uploaded=True)
    after.parts.cached(NAME).unlink()
    after.parts.file("uploaded", NAME).write_bytes(bytes(len(IMAGE)))
    after.reconcile(NAME)
    assert after.index.posted == [IMAGE]


def test_an_uploaded_copy_that_lost_its_digest_is_not_trusted(after: Aftermath) -> None:
    after.store(NAME, IMAGE, uploaded=True)
    after.parts.cached(NAME).unlink()
    os.removexattr(after.parts.file("uploaded", NAME), DIGEST_ATTRIBUTE)
    after.reconcile(NAME)
    assert ("get", NAME) in after.parts.store.calls
    assert after.index.posted == [IMAGE]


def test_a_pending_copy_without_digest_is_all_there_is(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    os.removexattr(after.parts.file("pending", NAME), DIGEST_ATTRIBUTE)
    after.reconcile(NAME)
    assert after.index.posted == [IMAGE]


def test_a_damaged_image_is_never_stored(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.parts.file("pending", NAME).write_bytes(IMAGE[:-1] + bytes([IMAGE[-1] ^ 1]))
    made = after.reconcile(NAME)
    assert after.index.posted == []
    assert made.report()["Undecided"] == 1


def test_an_image_of_which_nothing_is_left_is_counted(after: Aftermath) -> None:
    made = after.reconcile(NAME)
    assert made.report()["Undecided"] == 1


@pytest.mark.parametrize("answer", ["FilteredOut", OrthancRefused("POST /instances was answered 400")])
def test_an_image_that_orthanc_does_not_want_is_kept_and_counted(after: Aftermath, answer: str | Exception) -> None:
    after.store(NAME, IMAGE)
    after.index.answers = [answer]
    made = after.reconcile(NAME)
    assert made.report() == {"State": "Done", "Stored": 1, "Removed": 0, "Undecided": 1}
    assert after.tombstones() == []


def test_an_image_that_orthanc_cannot_take_now_is_tried_again_but_not_for_ever(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.index.answers = [OrthancRefused("503", is_of_server=True)] * 20
    made = after.make(NAME)
    for _ in range(19):
        with pytest.raises(OrthancRefused):
            made.work()
        assert not after.is_done
    made.work()
    assert made.report()["Undecided"] == 1
    assert after.is_done


def test_a_bucket_that_is_away_does_not_keep_the_others_waiting(after: Aftermath) -> None:
    after.parts.store.put_foreign(name_of(5), IMAGE)
    after.parts.store.before_get = [raising(Unreachable("away"))]
    after.store(NAME, IMAGE)
    made = after.make(name_of(5), NAME)
    with pytest.raises(Unreachable):
        made.work()
    assert after.index.posted == [IMAGE]
    made.work()
    assert made.report()["State"] == "Done"


def test_an_index_of_a_database_server_is_left_alone(after: Aftermath) -> None:
    after.index.builtin = False
    after.store(NAME, IMAGE)
    made = after.reconcile(NAME)
    assert after.index.posted == []
    assert made.report()["State"] == "NotNeeded"
    assert after.is_done


def test_until_it_is_done_the_names_are_kept_then_no_longer(after: Aftermath) -> None:
    made = after.make(NAME)
    assert after.parts.uploaded._is_held
    assert after.parts.removed._is_held
    made.work()
    assert not after.parts.uploaded._is_held
    assert not after.parts.removed._is_held


def test_it_runs_when_orthanc_answers_and_until_it_is_done(after: Aftermath) -> None:
    after.store(NAME, IMAGE)
    after.index.failures = [OrthancUnavailable("starting")]
    made = after.make(NAME)
    assert made.report()["State"] == "Waiting"
    made.start()
    made.start()
    wait_until(lambda: made.report()["State"] == "Done", 20, "it is done")
    assert after.index.posted == [IMAGE]


def test_a_mistake_of_ours_is_told_and_holds_nothing_up(after: Aftermath, caplog: pytest.LogCaptureFixture) -> None:
    after.store(NAME, IMAGE)
    after.store(name_of(5), IMAGE)
    after.index.failures = [ZeroDivisionError("ours")]
    made = after.make(NAME, removed=(name_of(5),))
    made.start()
    wait_until(lambda: made.report()["State"] == "Failed", 20, "it has given up")
    assert "reconciliation_failed" in caplog.text
    assert not made.has_reserved(NAME)
    assert not after.is_done  # the next start tries again


def test_it_can_be_stopped_at_any_time(after: Aftermath) -> None:
    after.index.failures = [OrthancUnavailable("away")] * 3
    after.store(NAME, IMAGE)
    made = after.make(NAME)
    made.stop()
    made.start()
    assert not after.is_done


def test_without_a_power_cut_there_is_nothing_to_do(after: Aftermath) -> None:
    parts = after.parts
    made = Reconciliation(
        parts.spool.directory,
        None,
        after.index,  # type: ignore[arg-type]  # the same calls
        Owners(parts.spool.directory, parts.folder / "cache", parts.store, str),
        uploaded=parts.uploaded,
        removed=parts.removed,
        counters=parts.counters,
        open_copy=after.open_copy,
        is_stored=after.is_stored,
        on_buried=after.on_buried,
    )
    made.start()
    assert made.report() == {"State": "NotNeeded", "Stored": 0, "Removed": 0, "Undecided": 0}
    assert not made.has_reserved(NAME)
    with pytest.raises(ObjectMissing):
        parts.fetcher.fetch(NAME)
