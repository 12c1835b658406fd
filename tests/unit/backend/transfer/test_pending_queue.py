from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from backend.transfer.pending_queue import LONGEST_HOLD, PendingQueue
from tests.fakes.transfer_child import name_of


@pytest.fixture
def released() -> list[int]:
    return []


@pytest.fixture
def queue(tmp_path: Path, released: list[int]) -> PendingQueue:
    return PendingQueue(tmp_path, released.append)


def pend(folder: Path, number: int, size: int = 10, accepted: float = 1000.0) -> str:
    path = folder / name_of(number)
    path.write_bytes(bytes(size))
    os.utime(path, (accepted, accepted))
    return path.name


def test_the_oldest_comes_first(queue: PendingQueue, tmp_path: Path) -> None:
    names = [pend(tmp_path, number, accepted=1000.0 - number) for number in range(5)]
    queue.refresh(set(names), set())
    assert [queue.take() for _ in names] == names[::-1]


def test_a_taken_name_is_not_given_to_another_however_often_the_folder_is_listed(
    queue: PendingQueue, tmp_path: Path
) -> None:
    name = pend(tmp_path, 1)
    queue.refresh({name}, set())
    assert queue.take() == name
    queue.refresh({name}, set())
    second = pend(tmp_path, 2)
    queue.refresh({name, second}, set())
    assert queue.take() == second


def test_bytes_are_released_once_whoever_takes_the_file_away(
    queue: PendingQueue, tmp_path: Path, released: list[int]
) -> None:
    names = {pend(tmp_path, number, size=10 * number, accepted=1000.0 + number) for number in range(1, 5)}
    queue.refresh(names, set())
    taken = queue.take()
    assert taken == name_of(1)
    queue.dropped(taken, 10)  # the remover was quicker than the upload that has just begun
    assert released == []
    queue.finish(taken)
    assert released == [10]
    queue.dropped(name_of(2), 20)
    queue.refresh({name_of(4)}, set())  # 3: somebody's rm
    assert sorted(released) == [10, 20, 30]
    queue.dropped(name_of(99), 7)  # went before it was ever seen
    assert sum(released) == 67
    assert queue.report()["PendingCount"] == 1
    assert queue.report()["PendingBytes"] == 40


def test_a_listing_older_than_an_upload_brings_nothing_back(
    queue: PendingQueue, tmp_path: Path, released: list[int]
) -> None:
    name = pend(tmp_path, 1)
    queue.refresh({name}, set())
    assert queue.take() == name
    (tmp_path / name).unlink()
    queue.finish(name)
    queue.refresh({name}, set())
    assert queue.report()["PendingCount"] == 0
    assert released == [10]


def test_a_failure_of_the_store_costs_no_place(queue: PendingQueue, tmp_path: Path) -> None:
    names = [pend(tmp_path, number, accepted=1000.0 + number) for number in range(2)]
    queue.refresh(set(names), set())
    assert queue.take() == names[0]
    queue.postpone(names[0], is_to_blame=False)
    assert queue.take() == names[0]


def test_one_that_fails_by_itself_lets_others_go_first(queue: PendingQueue, tmp_path: Path) -> None:
    names = [pend(tmp_path, number, accepted=1000.0 + number) for number in range(3)]
    queue.refresh(set(names), set())
    assert queue.take() == names[0]
    queue.postpone(names[0], is_to_blame=True)
    assert [queue.take(), queue.take(), queue.take()] == [names[1], names[2], names[0]]


def test_stop_ends_those_who_wait(queue: PendingQueue) -> None:
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    queue.stop()
    thread.join(5)
    assert taken == [None]


def test_a_folder_with_a_valid_name_is_no_attachment(queue: PendingQueue, tmp_path: Path) -> None:
    (tmp_path / name_of(1)).mkdir()
    queue.refresh({name_of(1)}, set())
    assert queue.report() == {"PendingCount": 0, "PendingBytes": 0, "OldestPendingSeconds": None}


def test_what_is_removed_leaves_the_queue_and_its_bytes_are_released_when_its_file_goes(
    queue: PendingQueue, tmp_path: Path, released: list[int]
) -> None:
    name, taken = pend(tmp_path, 1), pend(tmp_path, 2, accepted=500.0)
    queue.refresh({name, taken}, set())
    assert queue.take() == taken
    queue.refresh({name, taken}, {name, taken})
    assert queue.report()["PendingCount"] == 1  # the one that somebody is at
    queue.leave(taken)
    assert released == []
    for one in (name, taken):
        queue.dropped(one, 10)
    assert released == [10, 10]


def test_a_file_that_goes_before_it_was_looked_at_is_not_queued(queue: PendingQueue) -> None:
    queue.refresh({name_of(1)}, set())
    assert queue.report()["PendingCount"] == 0


def test_a_file_that_cannot_be_looked_at_keeps_no_other_from_being_queued(
    queue: PendingQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {pend(tmp_path, number) for number in range(5)}
    gone, bad, look = pend(tmp_path, 5), name_of(3), os.lstat
    queue.refresh({gone}, set())

    def fail(path: str) -> os.stat_result:
        if path.endswith(bad):
            raise OSError(errno.EIO, "Input/output error")
        return look(path)

    monkeypatch.setattr(os, "lstat", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            queue.refresh(names, set())
        assert queue.report()["PendingCount"] == 4, "what has left the folder has left the queue"
    assert {queue.take() for _ in range(4)} == names - {bad}
    monkeypatch.undo()
    queue.refresh(names, set())
    assert queue.take() == bad


def test_a_name_that_left_while_it_waited_is_not_given_out(queue: PendingQueue, tmp_path: Path) -> None:
    first, second = pend(tmp_path, 1, accepted=1.0), pend(tmp_path, 2, accepted=2.0)
    queue.refresh({first, second}, set())
    queue.dropped(first, 10)
    assert queue.take() == second


@pytest.fixture
def yielding(tmp_path: Path, released: list[int]) -> PendingQueue:
    """Gives way to a burst until 100 bytes are pending."""
    queue = PendingQueue(tmp_path, released.append, held_bytes=100)
    queue.give_way()
    return queue


def taken_now(queue: PendingQueue) -> list[str]:
    """What can be taken without waiting, in that order."""
    return [queue.take() or "" for _ in range(len(queue._waiting))]


def test_while_more_and_more_arrive_none_is_handed_out(yielding: PendingQueue, tmp_path: Path) -> None:
    names: set[str] = set()
    for number in range(5):
        names.add(pend(tmp_path, number, accepted=time.time()))
        yielding.refresh(names, set())
        assert yielding.is_holding
    assert yielding.report()["PendingCount"] == 5, "they are counted all the same"
    assert taken_now(yielding) == []


@pytest.mark.parametrize("is_listed", [True, False])
def test_once_nothing_new_arrives_all_are_handed_out_oldest_first(
    yielding: PendingQueue, tmp_path: Path, is_listed: bool
) -> None:
    now = time.time()
    names = [pend(tmp_path, number, accepted=now - number / 10) for number in range(3)]
    yielding.refresh(set(names), set())
    if is_listed:
        yielding.refresh(set(names), set())
    else:
        yielding.nothing_new()
    assert not yielding.is_holding
    assert taken_now(yielding) == names[::-1]


def test_in_a_burst_without_end_each_waits_no_longer_than_that(yielding: PendingQueue, tmp_path: Path) -> None:
    old = pend(tmp_path, 1, accepted=time.time() - LONGEST_HOLD + 1)
    yielding.refresh({old}, set())
    assert yielding.is_holding
    time.sleep(1.01)
    new = pend(tmp_path, 2, accepted=time.time())
    yielding.refresh({old, new}, set())
    assert yielding.is_holding
    assert taken_now(yielding) == [old]


def test_nothing_is_held_back_while_the_folder_holds_much(yielding: PendingQueue, tmp_path: Path) -> None:
    names = [pend(tmp_path, number, size=40, accepted=time.time() + number) for number in range(3)]
    yielding.refresh(set(names[:2]), set())
    assert yielding.is_holding
    yielding.refresh(set(names), set())
    assert taken_now(yielding) == names


def test_a_clock_set_back_does_not_hold_it_longer(yielding: PendingQueue, tmp_path: Path) -> None:
    name = pend(tmp_path, 1, accepted=time.time() + 3600)
    began = time.monotonic()
    yielding.refresh({name}, set())
    assert yielding._held[0][0] - began < LONGEST_HOLD + 1


def test_without_permission_to_give_way_everything_goes_at_once(queue: PendingQueue, tmp_path: Path) -> None:
    name = pend(tmp_path, 1, accepted=time.time())
    queue.refresh({name}, set())
    assert not queue.is_holding
    assert taken_now(queue) == [name]
