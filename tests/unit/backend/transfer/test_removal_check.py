"""Nothing is deleted that Orthanc's index still refers to, and nothing is kept for want of asking."""

from __future__ import annotations

import errno
import os
import time
from hashlib import md5
from io import BytesIO
from pathlib import Path

import pytest

from backend.maintenance.content import orthanc_id
from backend.maintenance.rest import OrthancUnavailable
from backend.storage_directory import StorageDirectory
from backend.transfer.good_copies import downloaded, open_verified
from backend.transfer.object_store.errors import ObjectArchived, Unreachable
from backend.transfer.owners import Owners
from backend.transfer.removal_check import RemovalCheck
from config.folder_format import DIGEST_ATTRIBUTE
from tests.fakes.images import made_up_ct
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import Parts
from tests.unit.backend.transfer.fake_index import FakeIndex

NAME, HEAD, NOTE = name_of(1), name_of(2, ".dcm.head"), name_of(3, ".unk")


def image() -> tuple[str, bytes]:
    data_set = made_up_ct("1.2.3", "1.2.3.4", 1, side=16)
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return str(data_set.SOPInstanceUID), buffer.getvalue()


UID, IMAGE = image()
INSTANCE = orthanc_id(IMAGE) or ""


class Checked:
    """Parts, an index, and the check between them."""

    def __init__(self, folder: Path) -> None:
        self.parts = Parts(folder)
        self.index = FakeIndex()
        self.reserved: set[str] = set()
        self.cancelled = 0
        self.lost: set[str] = set()  # names of which neither spool nor bucket hold anything
        self.unavailable: list[Exception] = []  # of the next questions whether they do
        self.started = time.time() - 10
        self.storage_directory: StorageDirectory | None = None
        self.restart()

    def restart(self) -> None:
        """A new transfer process; only what is on the disk is known to it."""
        parts = self.parts
        parts.removals._removals.clear()
        parts.remover = parts.make_remover(0.0, self.storage_directory)
        directory = parts.spool.directory
        hybrid = self.storage_directory.directory if self.storage_directory else None
        self.owners = Owners(directory, parts.folder / "cache", parts.store, str, hybrid)
        self.check = RemovalCheck(
            parts.removals,
            directory / "tombstones",
            self.index,  # type: ignore[arg-type]  # the same calls
            self.index,  # type: ignore[arg-type]
            self.owners,
            started=self.started,
            counters=parts.counters,
            is_stored=self.is_stored,
            open_copy=lambda name: open_verified(
                directory, name, lambda name: downloaded(parts.store, name, directory)
            ),
            put=parts.good_copies.put,
            clear=parts.remover.clear,
            on_cancelled=self.on_cancelled,
        )
        parts.remover.ask(self.owners, self.check.decide, self.reserved.__contains__)
        self.refresh()

    def is_stored(self, name: str) -> bool:
        if self.unavailable:
            raise self.unavailable.pop(0)
        return name not in self.lost or name in set(self.parts.store.keys())

    def on_cancelled(self) -> None:
        self.cancelled += 1

    def refresh(self) -> None:
        self.parts.removals.refresh(set(os.listdir(self.parts.file("tombstones", ""))))

    def remove(self, *names: str, earlier: bool = False, in_doubt: bool = False) -> None:
        """Orthanc removes attachments, in this run or in an earlier one."""
        for name in names:
            self.parts.spool.bury(name, in_doubt=in_doubt)
            if earlier:
                os.utime(self.parts.file("tombstones", name), (self.started - 100,) * 2)
        if earlier:
            self.restart()
        self.refresh()
        self.parts.remover.drop_local()
        self.parts.remove_due()

    def again(self) -> None:
        """Time passes."""
        self.check._store_not_before = 0.0
        for _, removal in self.parts.removals.those(lambda _: True):
            removal.not_before = 0.0
        self.refresh()
        self.parts.remove_due()

    def is_deleted(self, name: str) -> bool:
        return not self.parts.file("tombstones", name).exists() and name not in set(self.parts.store.keys())


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    return Checked(tmp_path)


def test_what_the_index_does_not_know_goes_for_one_question_however_many_attachments(checked: Checked) -> None:
    for name in (NAME, HEAD):
        checked.parts.spool.accept(name, IMAGE)
        checked.parts.upload.upload_pending(name)
    checked.remove(NAME, HEAD)
    assert checked.is_deleted(NAME)
    assert checked.is_deleted(HEAD)
    assert checked.index.questions == 1


def test_an_attachment_the_index_refers_to_is_kept_and_an_alarm_is_raised(
    checked: Checked, caplog: pytest.LogCaptureFixture
) -> None:
    """A database server has committed what Orthanc believes failed: Orthanc removes what it refers to."""
    checked.index.add(UID, NAME)
    checked.parts.spool.accept(NAME, IMAGE)
    checked.remove(NAME)
    assert checked.parts.file("pending", NAME).read_bytes() == IMAGE
    assert not checked.parts.file("tombstones", NAME).exists()
    assert checked.cancelled == 1
    assert checked.parts.counters.snapshot()["removals_cancelled"] == 1
    assert f"removal_cancelled name={NAME}" in caplog.text
    assert len(checked.parts.removals) == 0
    assert checked.parts.upload.upload_pending(NAME)
    assert checked.parts.store.keys() == [NAME]


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_a_removal_waits_while_no_file_can_be_opened(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, is_uploaded: bool
) -> None:
    """Whose it is cannot be read then: taken for nobody's, what the index refers to would go unasked."""
    checked.index.add(UID, NAME)
    checked.parts.spool.accept(NAME, IMAGE)
    if is_uploaded:
        checked.parts.upload.upload_pending(NAME)

    def crowded(_path: Path, _mode: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", crowded)
        checked.remove(NAME)
        ((_, removal),) = checked.parts.removals.those(lambda _: True)
        removal.not_before = 0
        checked.parts.remove_due()
    removal.not_before = 0
    checked.parts.remover.drop_local()
    checked.parts.remove_due()
    assert checked.cancelled == 1
    assert NAME in set(checked.parts.store.keys()) or checked.parts.file("pending", NAME).exists()


def test_the_same_instance_under_another_name_does_not_keep_the_old_one(checked: Checked) -> None:
    checked.index.add(UID, name_of(9))
    checked.parts.spool.accept(NAME, IMAGE)
    checked.remove(NAME)
    assert checked.is_deleted(NAME)


def test_a_removal_at_the_moment_of_its_cancellation_is_not_forgotten(checked: Checked) -> None:
    checked.index.add(UID, NAME)
    checked.parts.spool.accept(NAME, IMAGE)
    checked.index.after_answer = checked.index.instances.clear  # Orthanc deletes it, and buries it a second time
    checked.remove(NAME)
    assert checked.parts.file("tombstones", NAME).exists()
    assert checked.cancelled == 0
    checked.parts.remove_due()
    assert checked.is_deleted(NAME)


@pytest.mark.parametrize("name", [NAME, NOTE])
def test_without_a_local_copy_what_this_orthanc_removed_goes_unasked(checked: Checked, name: str) -> None:
    checked.parts.store.put_foreign(name, IMAGE)
    checked.remove(name)
    assert checked.is_deleted(name)
    assert checked.index.questions == 0
    assert [call for call in checked.parts.store.calls if call[0] != "delete"] == []


def test_a_removal_of_an_earlier_run_is_compared_with_the_index_by_the_object(checked: Checked) -> None:
    """The index may be a backup that was restored."""
    for name in (NAME, name_of(4)):
        checked.parts.store.put_foreign(name, IMAGE)
    checked.index.add(UID, NAME)
    checked.remove(NAME, name_of(4), earlier=True)
    assert checked.parts.store.keys() == [NAME]
    assert not checked.parts.file("tombstones", NAME).exists()
    assert checked.is_deleted(name_of(4))


def test_a_removal_from_the_future_counts_as_earlier(checked: Checked) -> None:
    """The clock was ahead."""
    checked.parts.store.put_foreign(NAME, IMAGE)
    checked.index.add(UID, NAME)
    checked.parts.spool.bury(NAME)
    os.utime(checked.parts.file("tombstones", NAME), (time.time() + 9000,) * 2)
    checked.restart()
    checked.parts.remove_due()
    assert checked.parts.store.keys() == [NAME]
    assert checked.parts.counters.snapshot()["removals_cancelled"] == 1


def test_a_clock_that_is_set_later_makes_no_earlier_removal_one_of_this_run(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has booted without knowing the time: Orthanc seems to have been started before the removal."""
    checked.parts.store.put_foreign(NAME, IMAGE)
    checked.index.add(UID, NAME)
    checked.parts.spool.bury(NAME)
    long_ago = time.time() - 90_000_000
    monkeypatch.setattr(time, "time", lambda: long_ago + 10)
    checked.started = long_ago
    checked.restart()
    monkeypatch.undo()
    checked.parts.remove_due()
    assert checked.parts.store.keys() == [NAME]
    assert not checked.parts.file("tombstones", NAME).exists()


def test_the_owner_is_remembered_over_a_restart_when_the_copy_is_gone(checked: Checked) -> None:
    checked.parts.spool.accept(NAME, IMAGE)
    checked.parts.upload.upload_pending(NAME)
    checked.index.failures = [OrthancUnavailable("away")]
    checked.remove(NAME)
    assert checked.parts.file("tombstones", NAME).exists()
    assert not checked.parts.cached(NAME).exists()
    checked.index.add(UID, NAME)
    checked.restart()
    checked.parts.remove_due()
    assert checked.parts.store.keys() == [NAME]
    assert [call for call in checked.parts.store.calls if call[0] == "get_range"] == []


def test_without_attributes_the_owner_is_found_again(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    checked.parts.spool.accept(NAME, IMAGE)
    monkeypatch.setattr(os, "setxattr", unsupported)
    checked.index.add(UID, NAME)
    checked.remove(NAME)
    assert checked.parts.counters.snapshot()["removals_cancelled"] == 1


def test_while_orthanc_cannot_be_asked_nothing_goes_and_it_is_asked_again_later(
    checked: Checked, caplog: pytest.LogCaptureFixture
) -> None:
    checked.parts.spool.accept(NAME, IMAGE)
    checked.index.failures = [OrthancUnavailable("away"), OrthancUnavailable("away")]
    checked.remove(NAME)
    checked.parts.remove_due()
    checked.check._not_before = 0.0
    checked.parts.remove_due()
    assert checked.index.questions == 2
    assert caplog.text.count("removal_check_failed") == 1
    assert checked.parts.file("pending", NAME).exists()
    checked.check._not_before = 0.0
    checked.parts.remove_due()
    assert checked.is_deleted(NAME)


def test_what_waits_for_the_index_is_counted_as_held(checked: Checked) -> None:
    checked.parts.spool.accept(NAME, IMAGE)
    checked.index.failures = [OrthancUnavailable("away")]
    checked.remove(NAME)
    assert checked.parts.removals.held == 0  # it may be asked in a moment
    checked.parts.removals._removals[NAME].seen -= 60
    assert checked.parts.removals.held == 1


def test_an_earlier_removal_waits_for_a_bucket_that_is_away(checked: Checked) -> None:
    checked.parts.store.put_foreign(NAME, IMAGE)
    checked.parts.store.before_get = [raising(Unreachable("away"))]
    checked.remove(NAME, earlier=True)
    assert checked.parts.store.keys() == [NAME]
    removal = checked.parts.removals.get(NAME)
    assert removal
    removal.not_before = 0.0
    checked.parts.remove_due()
    assert checked.is_deleted(NAME)


@pytest.mark.parametrize("content", [b"", b"notes of a user"])
def test_what_is_no_image_is_held_until_the_whole_index_was_read(checked: Checked, content: bytes) -> None:
    kept, gone = NOTE, name_of(5, ".unk")
    for name in (kept, gone):
        checked.parts.store.put_foreign(name, content)
    checked.index.add("1.2.3", kept, "1024")
    checked.remove(kept, gone, earlier=True)
    assert checked.parts.removals.get(gone) is not None or checked.is_deleted(gone)
    checked.check._reading.join(10)
    checked.parts.remove_due()
    assert checked.parts.store.keys() == [kept]
    assert os.listdir(checked.parts.file("tombstones", "")) == []
    assert checked.parts.counters.snapshot()["removals_cancelled"] == 1


def test_an_index_that_cannot_be_read_is_read_again(checked: Checked) -> None:
    checked.parts.store.put_foreign(NOTE, b"notes")
    checked.index.failures = [OrthancUnavailable("away")]
    checked.remove(NOTE, earlier=True)
    checked.check._reading.join(10)
    assert checked.parts.store.keys() == [NOTE]
    checked.parts.remove_due()
    assert not checked.check._reading.is_alive()  # not at once
    checked.check._not_before = 0.0
    checked.parts.remove_due()
    checked.check._reading.join(10)
    checked.parts.remove_due()
    assert checked.is_deleted(NOTE)


def test_a_tombstone_that_goes_while_the_index_is_read_needs_no_decision(checked: Checked) -> None:
    checked.check.read_index({NOTE})
    assert checked.parts.counters.snapshot()["removals_cancelled"] == 0


def test_an_earlier_removal_of_an_object_that_is_gone_needs_no_question(checked: Checked) -> None:
    checked.remove(NAME, earlier=True)
    assert checked.is_deleted(NAME)


def test_an_earlier_removal_of_what_is_only_here_and_no_image_is_held(checked: Checked) -> None:
    checked.parts.spool.accept(NOTE, b"notes")
    checked.index.add("1.2.3", NOTE, "1024")
    checked.remove(NOTE, earlier=True)
    checked.check._reading.join(10)
    assert checked.parts.file("pending", NOTE).read_bytes() == b"notes"
    assert not checked.parts.file("tombstones", NOTE).exists()


@pytest.mark.parametrize("is_image", [True, False])
def test_an_earlier_removal_of_what_only_orthancs_own_folder_has_is_compared_with_the_index(
    checked: Checked, tmp_path: Path, *, is_image: bool
) -> None:
    """HybridMode: the bucket has no such object, but that does not mean that there is nothing to lose."""
    kept, gone = (NAME, name_of(7)) if is_image else (NOTE, name_of(7, ".unk"))
    checked.storage_directory = folder = StorageDirectory(tmp_path / "storage")
    folder.recover()
    for name in (kept, gone):
        folder.write(name, IMAGE if is_image else b"notes", bytes(32))
    checked.index.add(UID if is_image else "1.2.3", kept, "dicom" if is_image else "1024")
    checked.remove(kept, gone, earlier=True)
    checked.check._reading.join(10) if checked.check._reading.ident else None
    checked.parts.remove_due()
    assert folder.has(kept)
    assert not checked.parts.file("tombstones", kept).exists()
    assert not folder.has(gone)


def test_what_somebody_else_looks_at_is_left_alone(checked: Checked) -> None:
    checked.parts.spool.accept(NAME, content_of(1))
    checked.reserved.add(NAME)
    checked.remove(NAME)
    assert checked.parts.file("pending", NAME).exists()
    checked.reserved.clear()
    checked.parts.remove_due()
    assert checked.is_deleted(NAME)


def test_a_removal_whose_owner_is_known_is_noted_for_a_while(checked: Checked) -> None:
    """A power cut may bring its row back after the object is gone."""
    checked.parts.spool.accept(NAME, IMAGE)
    checked.remove(NAME)
    assert checked.owners.of(NAME) == UID
    assert checked.parts.file("removed", NAME).exists()
    assert os.listxattr(checked.parts.file("removed", NAME)) == ["user.isen.instance"]


def test_a_cached_copy_tells_the_owner_too(checked: Checked) -> None:
    checked.parts.store.put_foreign(NAME, IMAGE)
    os.close(checked.parts.fetcher.fetch(NAME))
    assert DIGEST_ATTRIBUTE in os.listxattr(checked.parts.cached(NAME))
    assert checked.owners.of(NAME) == UID


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_a_duplicate_takes_the_place_of_what_the_index_refers_to_if_that_is_lost(
    checked: Checked, is_uploaded: bool
) -> None:
    """Orthanc has acknowledged it, because it has the instance already, and dropped it."""
    lost = name_of(9)
    checked.lost.add(lost)
    checked.index.add(UID, lost)
    checked.index.described[lost] = len(IMAGE), md5(IMAGE, usedforsecurity=False).hexdigest()
    checked.parts.spool.accept(NAME, IMAGE)
    if is_uploaded:
        checked.parts.upload.upload_pending(NAME)
    checked.remove(NAME)
    assert checked.is_deleted(NAME)
    assert checked.parts.store.keys() == [lost]
    with checked.parts.store.get(lost) as found:
        assert b"".join(found.chunks()) == IMAGE
    assert checked.parts.counters.snapshot()["mended"] == 1


def test_a_duplicate_that_is_damaged_mends_nothing_and_is_held(checked: Checked) -> None:
    lost = name_of(9)
    checked.lost.add(lost)
    checked.index.add(UID, lost)
    checked.parts.spool.accept(NAME, IMAGE)
    checked.parts.upload.upload_pending(NAME)
    with checked.parts.store.get(NAME) as found:
        digest = found.attributes.digest
    assert digest
    checked.parts.store.put_foreign(NAME, IMAGE[:-1] + b"?", digest)
    checked.parts.file("uploaded", NAME).unlink()
    checked.owners.of(NAME)
    checked.remove(NAME)
    assert checked.parts.store.keys() == [NAME]
    assert checked.parts.file("tombstones", NAME).exists()


def test_another_version_of_what_is_lost_is_held_until_the_index_does_not_refer_to_that_any_more(
    checked: Checked, caplog: pytest.LogCaptureFixture
) -> None:
    lost = name_of(9)
    checked.lost.add(lost)
    checked.index.uids[INSTANCE] = UID
    checked.index.add(INSTANCE, lost)
    checked.parts.spool.accept(NAME, IMAGE)
    checked.remove(NAME)
    checked.again()
    assert checked.parts.file("pending", NAME).read_bytes() == IMAGE
    assert checked.parts.file("tombstones", NAME).exists()
    assert caplog.text.count("removal_held") == 1
    checked.index.delete_instance(INSTANCE)
    checked.again()
    assert checked.is_deleted(NAME)


@pytest.mark.parametrize("lost", ["another patient's", "the head"])
def test_a_duplicate_goes_if_what_is_lost_is_no_image_of_its_instance(checked: Checked, lost: str) -> None:
    checked.lost.add(name_of(8))
    checked.index.uids |= {INSTANCE: UID, "of another patient": UID}
    checked.index.add(INSTANCE, name_of(9))
    if lost == "the head":
        checked.index.add(INSTANCE, name_of(8), "dicom-until-pixel-data")
    else:
        checked.index.add("of another patient", name_of(8))
    checked.parts.spool.accept(NAME, IMAGE)
    checked.remove(NAME)
    assert checked.is_deleted(NAME)


def test_a_duplicate_of_which_nothing_is_left_mends_nothing(checked: Checked) -> None:
    checked.lost.add(name_of(9))
    checked.index.add(UID, name_of(9))
    checked.parts.spool.accept(NAME, IMAGE)
    checked.owners.of(NAME)
    checked.parts.spool.bury(NAME)
    checked.owners.of(NAME)
    checked.parts.file("pending", NAME).unlink()
    checked.remove(NAME)
    assert checked.is_deleted(NAME)


@pytest.mark.parametrize("error", [Unreachable("away"), ObjectArchived("in an archive")])
def test_a_duplicate_waits_while_the_bucket_cannot_tell_whether_the_other_is_there(
    checked: Checked, error: Exception
) -> None:
    other = name_of(4)
    for uid, name in ((UID, name_of(9)), ("1.2.3", name_of(8))):
        checked.index.add(uid, name)
    checked.parts.spool.accept(NAME, IMAGE)
    checked.unavailable = [error]
    checked.remove(NAME)
    assert checked.parts.file("pending", NAME).exists()
    _, another = image()
    checked.parts.spool.accept(other, another)
    checked.again()
    assert checked.is_deleted(NAME)


def test_while_the_bucket_is_away_it_is_not_asked_about_each_duplicate(checked: Checked) -> None:
    for number in (1, 4):
        checked.parts.spool.accept(name_of(number), IMAGE)
    checked.index.add(UID, name_of(9))
    checked.unavailable = [Unreachable("away"), Unreachable("still away")]
    checked.remove(name_of(1), name_of(4))
    assert len(checked.unavailable) == 1
    checked.unavailable.clear()
    checked.again()
    assert checked.is_deleted(name_of(1))
    assert checked.is_deleted(name_of(4))


def test_a_cleared_removal_is_decided_again_if_its_row_comes_back_and_the_image_is_sent_again(
    checked: Checked,
) -> None:
    """A database server has gone back to an earlier state."""
    checked.parts.spool.accept(NAME, IMAGE)
    checked.parts.upload.upload_pending(NAME)
    checked.parts.remover._grace_period = 1000.0
    checked.remove(NAME)
    removal = checked.parts.removals.get(NAME)
    assert removal
    assert removal.is_cleared
    checked.index.add(UID, NAME)
    checked.parts.spool.accept(name_of(9), IMAGE)
    checked.remove(name_of(9))
    checked.again()
    assert not checked.parts.file("tombstones", NAME).exists()
    assert set(checked.parts.store.keys()) == {NAME}
    checked.parts.remover._grace_period = 0.0
    checked.again()
    assert checked.parts.store.keys() == [NAME]


@pytest.mark.parametrize(("builtin", "is_kept"), [(False, True), (True, False)])
def test_what_is_no_image_and_was_removed_in_doubt_is_compared_with_a_whole_index_of_a_database_server(
    checked: Checked, builtin: bool, is_kept: bool
) -> None:
    """Orthanc could not commit what it has just written: with its own SQLite that is certain."""
    checked.index.builtin = builtin
    checked.index.add("1.2.3", NOTE, "1024")
    checked.parts.spool.accept(NOTE, b"notes")
    checked.remove(NOTE, in_doubt=True)
    if is_kept:
        checked.check._reading.join(10)
    assert checked.parts.file("pending", NOTE).exists() is is_kept
    assert not checked.parts.file("tombstones", NOTE).exists()


def test_a_removal_in_doubt_whose_tombstone_is_gone_is_over(checked: Checked) -> None:
    checked.parts.spool.bury(NOTE, in_doubt=True)
    checked.refresh()
    ((name, removal),) = checked.parts.removals.those(lambda _: True)
    checked.parts.file("tombstones", NOTE).unlink()
    checked.check.decide([(name, removal)])
    assert checked.index.questions == 0
