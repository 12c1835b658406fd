from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backend.stack.processes import wait_until
from backend.transfer.kept_names import KeptNames
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.spool_watch import SpoolWatch
from tests.fakes.transfer_child import content_of, name_of
from tests.unit.backend.transfer.conftest import Parts

NAME = name_of(1)
CONTENT = content_of(1)
DEADLINE = 20.0  # seconds


@pytest.fixture
def released() -> list[int]:
    return []


@pytest.fixture
def queue(parts: Parts, released: list[int]) -> PendingQueue:
    queue = PendingQueue(parts.spool.directory / "pending", released.append)
    parts.on_dropped = queue.dropped
    parts.remover = parts.make_remover(0.0)
    return queue


@pytest.fixture
def watch(parts: Parts, queue: PendingQueue) -> SpoolWatch:
    return SpoolWatch(parts.spool.directory, queue, parts.removals, parts.remover, (parts.uploaded,))


def test_what_is_new_is_queued_and_what_is_removed_is_not(parts: Parts, queue: PendingQueue, watch: SpoolWatch) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.spool.accept(name_of(2), CONTENT)
    parts.spool.bury(name_of(2))
    watch.look()
    assert queue.take() == NAME
    assert queue.report()["PendingCount"] == 1
    assert len(parts.removals) == 1


def test_each_look_makes_room_also_when_it_fails(
    parts: Parts, queue: PendingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    kept = (parts.uploaded,)
    watch = SpoolWatch(
        parts.spool.directory, queue, parts.removals, parts.remover, kept, make_room=lambda: made.append(queue.bytes)
    )
    parts.spool.accept(NAME, CONTENT)
    watch.look()
    assert made == [len(CONTENT)]

    def unreadable() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(parts.remover, "drop_local", unreadable)
    with pytest.raises(OSError, match="Input/output"):
        watch.look()
    assert len(made) == 2


def test_a_removal_that_is_cancelled_is_queued_though_nothing_else_changes(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, released: list[int]
) -> None:
    parts.spool.accept(NAME, CONTENT)
    watch.look()
    parts.spool.bury(NAME)
    watch.look()
    assert queue.report()["PendingCount"] == 0
    assert released == []  # its bytes are in the spool still
    parts.file("tombstones", NAME).unlink()
    time.sleep(0.02)
    watch.look()
    assert queue.take() == NAME


def test_a_removal_releases_its_bytes_once_when_the_file_goes(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, released: list[int]
) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.spool.bury(NAME)
    watch.look()
    parts.remover.check_due()
    time.sleep(0.2)  # the folders' times move in steps
    watch.look()
    watch.look()
    assert released == [len(CONTENT)]


def test_a_removal_while_its_upload_begins_releases_its_bytes_once(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, released: list[int]
) -> None:
    parts.spool.accept(NAME, CONTENT)
    watch.look()
    assert queue.take() == NAME
    parts.spool.bury(NAME)
    watch.look()
    assert parts.upload.upload_pending(NAME) is False
    parts.remover.check_due()
    assert released == []
    queue.leave(NAME)
    assert released == [len(CONTENT)]


def test_what_was_kept_long_enough_goes(parts: Parts, queue: PendingQueue) -> None:
    (parts.spool.directory / "uploaded" / NAME).touch()
    kept = KeptNames(parts.spool.directory / "uploaded", 0)
    SpoolWatch(parts.spool.directory, queue, parts.removals, parts.remover, (kept,)).look()
    assert os.listdir(parts.spool.directory / "uploaded") == []


def failing(monkeypatch: pytest.MonkeyPatch, call: str, path: str) -> None:
    """One call of the module `os` with a path that ends like this fails, the next succeeds."""
    function = getattr(os, call)

    def fail(found: str | Path, *arguments: Any) -> Any:
        if str(found).endswith(path):
            monkeypatch.setattr(os, call, function)
            raise OSError(errno.EIO, "Input/output error")
        return function(found, *arguments)

    monkeypatch.setattr(os, call, fail)


def test_what_could_not_be_looked_at_is_looked_at_again_though_the_folder_does_not_change(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.spool.accept(NAME, CONTENT)
    time.sleep(0.2)  # until then the folder would be listed again anyway
    failing(monkeypatch, "lstat", NAME)
    with pytest.raises(OSError, match="Input/output"):
        watch.look()
    assert queue.report()["PendingCount"] == 0
    watch.look()
    assert queue.report()["PendingCount"] == 1


def test_a_removal_is_not_forgotten_when_the_folder_of_the_uploads_cannot_be_listed(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.spool.accept(NAME, CONTENT)
    time.sleep(0.2)
    watch.look()
    parts.spool.bury(NAME)
    time.sleep(0.2)
    failing(monkeypatch, "stat", "pending")
    with pytest.raises(OSError, match="Input/output"):
        watch.look()
    watch.look()
    assert queue.report()["PendingCount"] == 0


def test_what_was_kept_long_enough_goes_though_the_folder_of_the_uploads_cannot_be_listed(
    parts: Parts, queue: PendingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parts.spool.directory / "uploaded" / NAME).touch()
    kept = KeptNames(parts.spool.directory / "uploaded", 0)
    failing(monkeypatch, "stat", "pending")
    with pytest.raises(OSError, match="Input/output"):
        SpoolWatch(parts.spool.directory, queue, parts.removals, parts.remover, (kept,)).look()
    assert os.listdir(parts.spool.directory / "uploaded") == []


def test_it_looks_when_it_is_woken_and_outlives_a_disk_that_fails(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, caplog: pytest.LogCaptureFixture
) -> None:
    pending = parts.spool.directory / "pending"
    away = Path(f"{pending}-away")
    pending.rename(away)
    watch.start()
    wait_until(lambda: "spool_unreadable" in caplog.text, DEADLINE, "the failure is told")
    watch.wake()
    time.sleep(0.2)
    away.rename(pending)
    parts.spool.accept(NAME, CONTENT)
    watch.wake()
    wait_until(lambda: queue.report()["PendingCount"] == 1, DEADLINE, "the file is seen")
    assert caplog.text.count("spool_unreadable") == 1


def test_an_image_that_no_parser_survives_keeps_nothing_else_from_being_uploaded(
    parts: Parts,
    queue: PendingQueue,
    watch: SpoolWatch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is removed, so it is asked whose it was."""

    class Overwhelmed:
        def of(self, name: str) -> str | None:
            if name == NAME:
                raise RecursionError
            return None

    parts.remover.ask(Overwhelmed(), lambda _: None, lambda _: False)  # type: ignore[arg-type]  # no other is called
    for name in (NAME, name_of(2)):
        parts.spool.accept(name, CONTENT)
        parts.spool.bury(name)
    watch.start()
    wait_until(lambda: "removal_failed" in caplog.text, DEADLINE, "it is told")
    parts.spool.accept(name_of(3), CONTENT)
    watch.wake()
    assert queue.take() == name_of(3)
    removal = parts.removals.get(name_of(2))
    assert removal
    assert removal.is_dropped
    monkeypatch.setattr(watch, "look", lambda: 1 / 0)
    wait_until(lambda: "spool_unreadable" in caplog.text, DEADLINE, "whatever it is, it is told")
    monkeypatch.undo()
    parts.spool.accept(name_of(4), CONTENT)
    watch.wake()
    assert queue.take() == name_of(4)


def test_after_a_hint_it_looks_twice_because_a_hint_stands_for_what_comes_a_moment_later(
    parts: Parts, queue: PendingQueue, watch: SpoolWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.transfer.spool_watch._INTERVAL", 1000.0)
    looks: list[float] = []
    look = watch.look

    def noted() -> None:
        looks.append(time.monotonic())
        look()
        if len(looks) == 2:  # after the look that the hint has caused
            parts.spool.accept(NAME, CONTENT)

    monkeypatch.setattr(watch, "look", noted)
    watch.start()
    wait_until(lambda: len(looks) == 1, DEADLINE, "it looks at its start")
    watch.wake()
    wait_until(lambda: queue.report()["PendingCount"] == 1, DEADLINE, "what came without a hint is queued")
    assert len(looks) == 3


def test_uploads_give_way_to_a_burst_and_begin_when_it_is_over(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.transfer.spool_watch._BURST_INTERVAL", 0.6)  # a busy disk is slow between two images
    monkeypatch.setattr("backend.transfer.pending_queue.LONGEST_HOLD", 1000.0)
    queue = PendingQueue(parts.spool.directory / "pending", lambda _: None, held_bytes=10**9)
    queue.give_way()
    watch = SpoolWatch(parts.spool.directory, queue, parts.removals, parts.remover, (parts.uploaded,))
    taken: list[float] = []
    threading.Thread(target=lambda: (queue.take(), taken.append(time.monotonic())), daemon=True).start()
    watch.start()
    for number in range(20):
        parts.spool.accept(name_of(number), CONTENT)
        watch.wake()
        time.sleep(0.05)
    ended = time.monotonic()
    wait_until(lambda: bool(taken), DEADLINE, "an upload begins")
    assert taken[0] > ended - 0.1
    assert taken[0] < ended + 2
