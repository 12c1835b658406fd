"""When a worker copies what it posts: for a lone sender, and as long as the copies are of use."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import scp.arrivals
from config.arrival import ARRIVING
from scp.arrivals import Arrivals


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(scp.arrivals, "time", clock)
    return clock


@pytest.fixture
def arrivals(tmp_path: Path, clock: Clock) -> Arrivals:
    (tmp_path / ARRIVING).mkdir()
    return Arrivals(tmp_path)


def blocks() -> Iterator[bytes]:
    yield b"header"
    yield b"data set"


def copies(arrivals: Arrivals, spool: Path, *, take: bool = True) -> list[str]:
    """Post a file; the copies there are while Orthanc has it, which takes them or not."""
    with arrivals.copied(blocks, 14) as body:
        assert b"".join(body()) == b"headerdata set"
        found = os.listdir(spool / ARRIVING)
        for name in found if take else ():
            (spool / ARRIVING / name).unlink()
    assert os.listdir(spool / ARRIVING) == []
    return found


def test_what_nobody_takes_is_gone_when_orthanc_has_answered(arrivals: Arrivals, tmp_path: Path) -> None:
    assert len(copies(arrivals, tmp_path, take=False)) == 1


def test_what_is_left_goes_when_orthanc_cannot_be_reached(arrivals: Arrivals, tmp_path: Path) -> None:
    def post() -> None:
        with arrivals.copied(blocks, 14) as body:
            list(body())
            raise ConnectionError

    with pytest.raises(ConnectionError):
        post()
    assert os.listdir(tmp_path / ARRIVING) == []


def test_nothing_is_copied_if_orthanc_is_not_even_connected(arrivals: Arrivals, tmp_path: Path) -> None:
    for _ in range(50):
        with arrivals.copied(blocks, 14):
            pass
    assert len(copies(arrivals, tmp_path)) == 1, "nor learned from"


def test_a_repeated_request_is_copied_once(arrivals: Arrivals, tmp_path: Path) -> None:
    with arrivals.copied(blocks, 14) as body:
        list(body())
        (name,) = os.listdir(tmp_path / ARRIVING)
        (tmp_path / ARRIVING / name).unlink()
        assert b"".join(body()) == b"headerdata set"
        assert os.listdir(tmp_path / ARRIVING) == []


def test_a_long_instance_is_not_copied(arrivals: Arrivals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scp.arrivals, "_LONGEST", 13)
    assert copies(arrivals, tmp_path) == []


@pytest.fixture(params=["of one worker", "of two"])
def other(request: pytest.FixtureRequest, arrivals: Arrivals, tmp_path: Path) -> Arrivals:
    """Through which another store goes."""
    return Arrivals(tmp_path) if request.param == "of two" else arrivals


def test_stores_that_overlap_are_not_copied_nor_what_follows_them_soon(
    arrivals: Arrivals, other: Arrivals, tmp_path: Path, clock: Clock
) -> None:
    assert len(copies(arrivals, tmp_path)) == 1
    with other.copied(blocks, 14):
        assert copies(arrivals, tmp_path) == []
        clock.now += 100
        assert copies(arrivals, tmp_path) == []
    clock.now += 0.2
    assert copies(arrivals, tmp_path) == []
    clock.now += 0.1
    assert len(copies(arrivals, tmp_path)) == 1


def test_stores_that_take_turns_are_copied_whoever_sends_them(
    arrivals: Arrivals, other: Arrivals, tmp_path: Path
) -> None:
    assert [len(copies(one, tmp_path)) for one in (arrivals, other, arrivals, other)] == [1, 1, 1, 1]


def test_a_store_that_fails_is_over(arrivals: Arrivals, other: Arrivals, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), other.copied(blocks, 14):
        raise ConnectionError
    assert len(copies(arrivals, tmp_path)) == 1


def test_where_folders_cannot_be_locked_workers_do_not_know_of_each_other(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ARRIVING).mkdir()
    arrivals, other = Arrivals(tmp_path), Arrivals(tmp_path)
    lock = fcntl.flock

    def nfs(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "not open for writing")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", nfs)
    with other.copied(blocks, 14):
        assert len(copies(arrivals, tmp_path)) == 1


def test_where_copies_are_not_taken_it_is_tried_now_and_then_only(
    arrivals: Arrivals, tmp_path: Path, clock: Clock
) -> None:
    made = sum(len(copies(arrivals, tmp_path, take=False)) for _ in range(50))
    assert made == 8
    clock.now += 59
    assert copies(arrivals, tmp_path) == []
    clock.now += 2
    assert len(copies(arrivals, tmp_path)) == 1
    assert sum(len(copies(arrivals, tmp_path, take=False)) for _ in range(50)) == 8


def test_copies_that_cannot_be_written_are_in_vain(
    arrivals: Arrivals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def full(*_arguments: object) -> int:
        nonlocal tries
        tries += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    assert [copies(arrivals, tmp_path) for _ in range(50)] == [[]] * 50
    assert tries == 8


def test_a_folder_that_is_missing_is_no_trouble(tmp_path: Path, clock: Clock) -> None:
    arrivals = Arrivals(tmp_path)
    with arrivals.copied(blocks, 14) as body:
        assert b"".join(body()) == b"headerdata set"
    clock.now += 1
    with arrivals.copied(blocks, 14) as body:
        assert b"".join(body()) == b"headerdata set"


def test_another_copy_of_the_same_instance_is_left_alone(arrivals: Arrivals, tmp_path: Path) -> None:
    with arrivals.copied(blocks, 14) as body:
        list(body())
        (name,) = os.listdir(tmp_path / ARRIVING)
        with arrivals.copied(blocks, 14) as again:
            os.rename(tmp_path / ARRIVING / name, tmp_path / ARRIVING / f"{name}.part")
            list(again())
        assert os.listdir(tmp_path / ARRIVING) == [f"{name}.part"]
        os.rename(tmp_path / ARRIVING / f"{name}.part", tmp_path / ARRIVING / name)


def test_a_copy_that_cannot_be_removed_was_not_taken(
    arrivals: Arrivals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    tries = 0
    for _ in range(50):
        with monkeypatch.context() as patch, arrivals.copied(blocks, 14) as body:
            list(body())
            tries += len(os.listdir(tmp_path / ARRIVING))
            patch.setattr(os, "unlink", refuse)
        for name in os.listdir(tmp_path / ARRIVING):
            (tmp_path / ARRIVING / name).unlink()
    assert tries == 8
