from __future__ import annotations

import errno
import os
import time

import pytest

from backend.stack.processes import wait_until
from backend.storage_directory import StorageDirectory, storage_path
from backend.transfer.object_store.errors import AccessDenied, Unreachable
from backend.transfer.remover import Remover
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import Parts

NAME = name_of(1)
CONTENT = content_of(1)


def remover(parts: Parts, grace_period: float, storage_directory: StorageDirectory | None = None) -> Remover:
    return Remover(
        parts.spool.directory,
        parts.cache,
        parts.store,
        str,
        names=parts.names,
        availability=parts.availability,
        counters=parts.counters,
        grace_period=grace_period,
        on_dropped=lambda *_: None,
        storage_directory=storage_directory,
    )


def bury(parts: Parts, *names: str) -> None:
    for name in names:
        parts.spool.bury(name)
    parts.remover.refresh(set(names))


def test_spool_and_cache_files_go_at_once_and_their_bytes_are_told(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.spool.accept(name_of(2), CONTENT)
    parts.upload.upload_pending(name_of(2))
    bury(parts, NAME, name_of(2))
    parts.remover.drop_local()
    assert not parts.file("pending", NAME).exists()
    assert not parts.cached(name_of(2)).exists()
    assert parts.dropped == [(NAME, len(CONTENT))]
    parts.remover.drop_local()
    assert len(parts.dropped) == 1


def test_the_object_goes_then_the_tombstone(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    assert parts.remover.count == 1
    assert parts.remover.delete_due() == 1
    assert parts.store.keys() == []
    assert not parts.file("tombstones", NAME).exists()
    assert parts.remover.count == 0
    assert parts.counters.snapshot()["deletions"] == 1


def test_an_object_that_never_was_counts_as_deleted(parts: Parts) -> None:
    bury(parts, NAME)
    parts.remover.delete_due()
    assert not parts.file("tombstones", NAME).exists()


def test_the_grace_period_counts_from_the_removal_even_over_a_restart(parts: Parts) -> None:
    patient = remover(parts, 1000.0)
    parts.spool.bury(NAME)
    patient.refresh({NAME})
    time.sleep(0.25)
    assert patient.delete_due() == 0
    os.utime(parts.file("tombstones", NAME), (time.time() - 1001,) * 2)
    assert patient.delete_due() == 1


def test_a_clock_that_was_set_back_does_not_hold_it_for_ever(parts: Parts) -> None:
    short = remover(parts, 0.3)
    parts.spool.bury(NAME)
    os.utime(parts.file("tombstones", NAME), (time.time() + 100_000,) * 2)
    short.refresh({NAME})
    assert short.delete_due() == 0
    time.sleep(0.35)
    assert short.delete_due() == 1


def test_an_unconfirmed_delete_keeps_the_tombstone_and_is_repeated(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    parts.store.before_delete = [raising(Unreachable("away"))]
    bury(parts, NAME)
    parts.remover.delete_due()
    assert parts.file("tombstones", NAME).exists()
    assert parts.remover.delete_due() == 0  # not at once
    parts.remover._removals[NAME].not_before = 0.0
    parts.availability.succeeded("DeleteObject")
    parts.remover.delete_due()
    assert parts.store.keys() == []


def test_a_store_that_refuses_deletes_is_not_asked_for_each(parts: Parts) -> None:
    names = [name_of(number) for number in range(50)]
    parts.store.before_delete = [raising(AccessDenied("policy")) for _ in names]
    bury(parts, *names)
    parts.remover.delete_due()
    assert len(parts.store.calls) <= 4  # the threads that had begun
    assert parts.availability.report()["State"] == "Denied"


def test_a_name_that_is_being_uploaded_is_left_until_later(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    with parts.names.holding(NAME):
        parts.remover.drop_local()
        parts.remover.delete_due()
        assert parts.store.keys() == [NAME]
    parts.remover.drop_local()
    parts.remover.delete_due()
    assert parts.store.keys() == []


def test_a_tombstone_taken_away_by_hand_cancels_the_removal(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    parts.file("tombstones", NAME).unlink()
    assert parts.remover.delete_due() == 0
    assert parts.store.keys() == [NAME]


def test_the_file_in_orthancs_folder_goes_with_the_object_and_its_failure_keeps_the_tombstone(parts: Parts) -> None:
    """It may be the only copy, so it has the grace period too."""
    folder = StorageDirectory(parts.folder / "storage")
    folder.directory.mkdir()
    folder.recover()
    folder.write(NAME, CONTENT, bytes(32))
    slow, quick = remover(parts, 100, folder), remover(parts, 0, folder)
    parts.spool.bury(NAME)
    for one in (slow, quick):
        one.refresh({NAME})
    slow.drop_local()
    slow.delete_due()
    assert folder.has(NAME)
    path = storage_path(folder.directory, NAME)
    path.rename(folder.directory / "aside")
    path.mkdir()  # unlink(2) fails on it
    quick.delete_due()
    assert parts.file("tombstones", NAME).exists()
    path.rmdir()
    (folder.directory / "aside").rename(path)
    again = remover(parts, 0, folder)
    again.refresh({NAME})
    again.delete_due()
    assert not path.exists()


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
        parts.remover.drop_local()
        assert parts.dropped == [(name_of(2), len(CONTENT))]
    wait_until(lambda: (parts.remover.drop_local(), len(parts.dropped) == 2)[1], 5, "dropped when it can be")


def test_a_tombstone_that_cannot_be_unlinked_is_tried_again_later_and_later(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    bury(parts, NAME)
    with monkeypatch.context() as patch:
        refuse_to_unlink(patch, "tombstones")
        assert parts.remover.delete_due() == 1
        assert parts.remover.delete_due() == 0  # not at once: each trial is a request to S3
    assert parts.remover.count == 1
    wait_until(parts.remover.delete_due, 5, "due again")
    assert parts.remover.count == 0
    assert not parts.file("tombstones", NAME).exists()
