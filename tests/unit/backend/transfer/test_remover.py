from __future__ import annotations

import errno
import os
import time

import pytest

from backend.stack.processes import wait_until
from backend.storage_directory import StorageDirectory, storage_path
from backend.transfer.object_store.errors import AccessDenied, RequestRefused, Unreachable
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import Parts

NAME = name_of(1)
CONTENT = content_of(1)


def bury(parts: Parts, *names: str) -> None:
    for name in names:
        parts.spool.bury(name)
    parts.removals.refresh(set(names))


def test_copies_of_what_s3_has_go_at_once_the_only_copy_when_the_index_is_known_not_to_need_it(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.spool.accept(name_of(2), CONTENT)
    parts.upload.upload_pending(name_of(2))
    bury(parts, NAME, name_of(2))
    parts.remover.drop_local()
    assert not parts.cached(name_of(2)).exists()
    assert not parts.file("uploaded", name_of(2)).exists()
    assert parts.file("pending", NAME).exists()
    assert parts.dropped == []
    parts.remover.check_due()
    assert not parts.file("pending", NAME).exists()
    assert parts.dropped == [(NAME, len(CONTENT))]
    parts.remover.check_due()
    assert len(parts.dropped) == 1


def test_the_object_goes_then_the_tombstone(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    assert len(parts.removals) == 1
    assert parts.remove_due() == 1
    assert parts.store.keys() == []
    assert not parts.file("tombstones", NAME).exists()
    assert len(parts.removals) == 0
    assert parts.counters.snapshot()["deletions"] == 1


def test_an_object_that_never_was_counts_as_deleted(parts: Parts) -> None:
    bury(parts, NAME)
    parts.remove_due()
    assert not parts.file("tombstones", NAME).exists()


def test_the_grace_period_counts_from_the_removal_even_over_a_restart(parts: Parts) -> None:
    parts.remover = parts.make_remover(1000.0)
    bury(parts, NAME)
    time.sleep(0.25)
    assert parts.remove_due() == 0
    os.utime(parts.file("tombstones", NAME), (time.time() - 1001,) * 2)
    assert parts.remove_due() == 1


def test_a_clock_that_was_set_back_does_not_hold_it_for_ever(parts: Parts) -> None:
    parts.remover = parts.make_remover(0.3)
    parts.spool.bury(NAME)
    os.utime(parts.file("tombstones", NAME), (time.time() + 100_000,) * 2)
    parts.removals.refresh({NAME})
    assert parts.remove_due() == 0
    time.sleep(0.35)
    assert parts.remove_due() == 1


def test_an_unconfirmed_delete_keeps_the_tombstone_and_is_repeated(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    parts.store.before_delete = [raising(Unreachable("away"))]
    bury(parts, NAME)
    parts.remove_due()
    assert parts.file("tombstones", NAME).exists()
    assert parts.remove_due() == 0  # not at once
    parts.removals._removals[NAME].not_before = 0.0
    parts.availability.succeeded("DeleteObject")
    parts.remove_due()
    assert parts.store.keys() == []


def test_a_store_that_refuses_deletes_is_not_asked_for_each(parts: Parts) -> None:
    names = [name_of(number) for number in range(50)]
    parts.store.before_delete = [raising(AccessDenied("policy")) for _ in names]
    bury(parts, *names)
    parts.remove_due()
    assert len(parts.store.calls) <= 4  # the threads that had begun
    assert parts.availability.report()["State"] == "Denied"


def test_a_name_that_is_being_uploaded_is_left_until_later(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    with parts.names.holding(NAME):
        parts.remover.drop_local()
        parts.remove_due()
        assert parts.store.keys() == [NAME]
    parts.remover.drop_local()
    parts.remove_due()
    assert parts.store.keys() == []


def test_a_tombstone_taken_away_by_hand_cancels_the_removal(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    parts.file("tombstones", NAME).unlink()
    assert parts.remove_due() == 0
    assert parts.store.keys() == [NAME]


def test_it_works_by_itself_until_it_is_stopped_and_outlives_a_disk_that_fails(
    parts: Parts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    failures = [OSError(5, "Input/output error")]
    real = parts.remover._pending_sync.sync

    def sync() -> None:
        if failures:
            raise failures.pop()
        real()

    monkeypatch.setattr(parts.remover._pending_sync, "sync", sync)
    bury(parts, NAME)
    parts.remover.start()
    wait_until(lambda: not parts.file("tombstones", NAME).exists(), 20, "it is removed")
    assert caplog.text.count("removal_failed reason=[Errno 5]") == 1
    parts.remover.stop()
    bury(parts, name_of(2))
    assert parts.remove_due() == 1
    assert parts.file("tombstones", name_of(2)).exists()


def test_nothing_is_deleted_before_its_tombstone_is_durable(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remover sees a tombstone as soon as it has a name; the fsync of whoever made it may still be under way."""
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    seen: list[list[str]] = []
    failures = [OSError(5, "Input/output error")]

    def sync() -> None:
        seen.append(parts.store.keys())
        if failures:
            raise failures.pop()

    monkeypatch.setattr(parts.remover._tombstones_sync, "sync", sync)
    assert parts.remove_due() == 0
    assert parts.store.keys() == [NAME]
    assert parts.file("tombstones", NAME).exists()
    wait_until(lambda: parts.remove_due() == 1, 20, "it is tried again")
    assert seen == [[NAME], [NAME]]
    assert parts.store.keys() == []


def test_while_deletes_are_paused_the_spool_is_emptied_all_the_same(parts: Parts) -> None:
    parts.availability.failed("DeleteObject", Unreachable("away"))
    parts.spool.accept(NAME, CONTENT)
    bury(parts, NAME)
    parts.remover.start()
    wait_until(lambda: not parts.file("pending", NAME).exists(), 20, "the spool is emptied")
    assert parts.file("tombstones", NAME).exists()
    parts.remover.stop()


def test_a_tombstone_taken_away_while_its_object_is_deleted_is_no_error(parts: Parts) -> None:
    parts.store.before_delete = [parts.file("tombstones", NAME).unlink]
    bury(parts, NAME)
    parts.removals._removals[NAME].owner = "1.2.3"
    assert parts.remove_due() == 1
    assert len(parts.removals) == 0


def test_a_whole_batch_is_taken_at_once_and_not_more(parts: Parts) -> None:
    bury(parts, *(name_of(number) for number in range(250)))
    assert parts.remove_due() == 200
    assert parts.remove_due() == 50


def test_a_removal_whose_tombstone_goes_while_it_is_carried_out_is_over(parts: Parts) -> None:
    bury(parts, NAME)
    parts.remover.check_due()
    parts.removals.refresh(set())
    assert parts.remover._delete(NAME) is False
    bury(parts, NAME)
    parts.remover.check_due()
    with parts.names.holding(NAME):
        assert parts.remover.delete_due() == 1
        assert parts.store.calls == []


def test_full_batches_are_worked_off_without_a_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([200, 200, 3])
    waited = []
    monkeypatch.setattr(parts.remover, "delete_due", lambda: next(rounds))

    def wait(seconds: float) -> None:
        waited.append(seconds)
        parts.remover.stop()

    monkeypatch.setattr(parts.remover._stopped, "wait", wait)
    parts.remover._run()
    assert len(waited) == 1
    assert list(rounds) == []


def test_what_is_being_uploaded_is_not_cleared(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    bury(parts, NAME)
    with parts.names.holding(NAME):
        parts.remover.check_due()
    assert parts.file("pending", NAME).exists()
    parts.remove_due()
    assert not parts.file("pending", NAME).exists()


def test_an_object_that_cannot_be_deleted_is_told_once(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.store.before_delete = [raising(RequestRefused("Object Lock")), raising(RequestRefused("Object Lock"))]
    bury(parts, NAME)
    for _ in range(2):
        parts.remove_due()
        parts.removals._removals[NAME].not_before = 0.0
    assert caplog.text.count(f"removal_failed name={NAME} reason=Object Lock") == 1
    parts.remove_due()
    assert len(parts.removals) == 0


def test_the_file_in_orthancs_folder_goes_with_the_object_and_its_failure_keeps_the_tombstone(parts: Parts) -> None:
    """It may be the only copy, so it has the grace period too."""
    folder = StorageDirectory(parts.folder / "storage")
    folder.directory.mkdir()
    folder.recover()
    folder.write(NAME, CONTENT, bytes(32))
    parts.spool.bury(NAME)
    parts.removals.refresh({NAME})
    parts.remover = parts.make_remover(100, folder)
    parts.remover.drop_local()
    parts.remove_due()
    assert folder.has(NAME)
    path = storage_path(folder.directory, NAME)
    path.rename(folder.directory / "aside")
    path.mkdir()  # unlink(2) fails on it
    parts.remover = parts.make_remover(0, folder)
    parts.remove_due()
    assert parts.file("tombstones", NAME).exists()
    path.rmdir()
    (folder.directory / "aside").rename(path)
    wait_until(lambda: parts.remove_due() >= 0 and not path.exists(), 20, "the next try removes the file")
    wait_until(lambda: parts.remove_due() >= 0 and not parts.file("tombstones", NAME).exists(), 20, "it is done")


def refuse_to_unlink(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """unlink(2) fails below folders whose path contains `part`."""
    real_unlink = os.unlink

    def unlink(path: os.PathLike[str] | str, **keywords: int) -> None:
        if part in str(path):
            raise OSError(errno.EROFS, "Read-only file system")
        real_unlink(path, **keywords)

    monkeypatch.setattr(os, "unlink", unlink)


def test_a_file_that_cannot_be_dropped_does_not_hold_up_the_others(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads are listed after removals are dropped: an exception here would end both."""
    for number in (1, 2):
        parts.spool.accept(name_of(number), CONTENT)
    bury(parts, name_of(1), name_of(2))
    with monkeypatch.context() as patch:
        refuse_to_unlink(patch, f"pending/{name_of(1)}")
        parts.remove_due()
        assert parts.dropped == [(name_of(2), len(CONTENT))]
    wait_until(lambda: parts.remove_due() >= 0 and len(parts.dropped) == 2, 20, "dropped when it can be")


def test_a_tombstone_that_cannot_be_unlinked_is_tried_again_later_and_later(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    with monkeypatch.context() as patch:
        refuse_to_unlink(patch, "tombstones")
        assert parts.remove_due() == 1
        assert parts.remove_due() == 0  # not at once: each trial is a request to S3
    assert len(parts.removals) == 1
    wait_until(parts.remove_due, 20, "due again")
    assert len(parts.removals) == 0
    assert not parts.file("tombstones", NAME).exists()


def test_a_tombstone_that_cannot_be_looked_at_holds_up_no_other(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        parts.store.put_foreign(name_of(number), CONTENT)
    bury(parts, name_of(1), name_of(2))
    real_buried = parts.removals.buried

    def buried(name: str) -> float | None:
        if name == name_of(1):
            raise OSError(errno.EIO, "Input/output error")
        return real_buried(name)

    with monkeypatch.context() as patch:
        patch.setattr(parts.removals, "buried", buried)
        assert parts.remove_due() == 1
    assert parts.store.keys() == [name_of(1)]
    wait_until(parts.remove_due, 20, "it is looked at again")
    assert parts.store.keys() == []


def test_a_mistake_in_one_round_does_not_end_the_removals(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    mistakes = [RuntimeError("a mistake")]
    real_check = parts.remover.check_due

    def check_due() -> None:
        if mistakes:
            raise mistakes.pop()
        real_check()

    monkeypatch.setattr(parts.remover, "check_due", check_due)
    parts.remover.start()
    wait_until(lambda: not parts.file("tombstones", NAME).exists(), 20, "it is removed all the same")
    parts.remover.stop()
    assert caplog.text.count("removal_failed reason=a mistake") == 1


def test_the_only_copy_goes_once_the_tombstone_is_durable_and_not_before(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every file system writes its folders in the order in which they were changed."""
    parts.spool.accept(NAME, CONTENT)
    parts.file("tombstones", NAME).touch()
    parts.removals.refresh({NAME})
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("tombstones"):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    parts.remover.check_due()
    assert parts.file("pending", NAME).exists()
    monkeypatch.undo()
    removal = parts.removals.get(NAME)
    assert removal
    removal.not_before = 0.0
    parts.remover.check_due()
    assert not parts.file("pending", NAME).exists()
