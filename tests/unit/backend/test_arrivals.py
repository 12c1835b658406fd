"""Copies that DICOM workers make of arriving instances: taken over whole and durable, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

import scp.arrivals
from backend.atomic_file import read_digest, write_digest
from backend.spool import Spool
from config.arrival import PART, arrival_name, sweep_arrivals
from scp.arrivals import Arrivals
from tests.unit.backend.test_spool import names

NAME = "11111111-2222-3333-4444-555555555555.dcm"
HEADER = b"\0" * 128 + b"DICM, then the file meta information"
HEAD = HEADER + b"patient and study"
PIXEL_DATA = b"\xe0\x7f\x10\x00OW"
FILE = HEAD + PIXEL_DATA + bytes(range(256)) * 300


def blocks() -> Iterator[bytes]:
    yield HEADER
    yield FILE[len(HEADER) :]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", maximum_size=1_000_000)


@pytest.fixture
def arrivals(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    monkeypatch.setattr(scp.arrivals, "_CROWDED", 0.0)
    return Arrivals(spool.directory)


@pytest.fixture
def posting(arrivals: Arrivals) -> Iterator[Callable[[], None]]:
    """Post a file: when this returns its last byte is sent and Orthanc parses; until the end of the test."""
    with ExitStack() as stack:

        def post() -> None:
            body = stack.enter_context(arrivals.copied(blocks, len(FILE)))
            assert b"".join(body()) == FILE

        yield post


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders of the files that are made from now on."""
    folders: list[str] = []
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            folders.append(Path(path).parent.name)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", opened)
    return folders


def test_file_and_beginning_are_taken_over_without_writing_them_again(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    posting()
    assert len(names(spool, "arriving")) == 2
    folders = written(monkeypatch)
    assert spool.accept(NAME, FILE)
    assert spool.accept(f"{NAME}.head", HEAD)
    assert folders == []
    for name, content in ((NAME, FILE), (f"{NAME}.head", HEAD)):
        path = spool.directory / "pending" / name
        assert path.read_bytes() == content
        assert read_digest(path) == sha256(content).digest()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_nlink == 1
    assert names(spool, "arriving") == names(spool, "incoming") == set()
    assert spool.used == len(FILE) + len(HEAD)


def test_the_copy_has_its_name_only_once_it_is_synced(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append((read_digest(descriptor), names(spool, "arriving")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    posting()
    name = arrival_name(FILE, len(FILE))
    head = arrival_name(HEAD, len(HEAD))
    assert seen == [
        (sha256(FILE).digest(), {name + PART}),
        (sha256(HEAD).digest(), {name, head + PART}),
    ]


def test_a_copy_that_looks_alike_but_is_not_the_same_is_no_copy(spool: Spool, posting: Callable[[], None]) -> None:
    posting()
    other = FILE[:-1] + b"?"
    assert arrival_name(other, len(other)) == arrival_name(FILE, len(FILE))
    assert not spool.accept(NAME, other)
    assert (spool.directory / "pending" / NAME).read_bytes() == other
    assert names(spool, "incoming") == set()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_copy_of_another_length_is_no_copy(spool: Spool, posting: Callable[[], None], change: int) -> None:
    posting()
    path = spool.directory / "arriving" / arrival_name(FILE, len(FILE))
    os.truncate(path, len(FILE) + change)
    assert not spool.accept(NAME, FILE)
    assert (spool.directory / "pending" / NAME).read_bytes() == FILE


def being_written(
    arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch, go_on: threading.Event, stored: threading.Event
) -> threading.Thread:
    """A worker that syncs once it may, and has posted until the file is stored."""
    syncing = threading.Event()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if threading.current_thread() is writer:
            syncing.set()
            assert go_on.wait(10)
        real(descriptor)

    def post() -> None:
        with arrivals.copied(blocks, len(FILE)) as body:
            list(body())
            assert stored.wait(10)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = threading.Thread(target=post)
    writer.start()
    assert syncing.wait(10)
    return writer


def test_one_that_is_being_written_is_waited_for(
    spool: Spool, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, stored = threading.Event(), threading.Event()
    writer = being_written(arrivals, monkeypatch, go_on, stored)
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        go_on.set()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    was_taken = spool.accept(NAME, FILE)
    stored.set()
    writer.join(10)
    assert was_taken
    assert (spool.directory / "pending" / NAME).read_bytes() == FILE


def test_a_sweep_leaves_the_part_of_a_worker_that_lives_and_nothing_else(
    spool: Spool, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a second worker could make one of the same name, which the first would give its durable name, unsynced."""
    go_on, stored = threading.Event(), threading.Event()
    writer = being_written(arrivals, monkeypatch, go_on, stored)
    part = arrival_name(FILE, len(FILE)) + PART
    for left in ("00000000-1.part", "00000000-2"):
        (spool.directory / "arriving" / left).write_bytes(b"left by a worker that died")
    Arrivals(spool.directory)
    assert names(spool, "arriving") == {part}
    (spool.directory / "arriving" / "00000000-2").write_bytes(b"left by a worker that died")
    spool.recover()
    assert names(spool, "arriving") == {part}
    go_on.set()
    stored.set()
    writer.join(10)
    assert names(spool, "arriving") == set()


def test_a_part_that_was_swept_before_it_was_locked_is_given_up(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    others = b"another worker's, not synced yet"
    part = spool.directory / "arriving" / (arrival_name(FILE, len(FILE)) + PART)

    def flock(descriptor: int, operation: int) -> None:
        if part.exists():  # otherwise it is the folder that is locked
            monkeypatch.setattr(fcntl, "flock", real)
            part.unlink()
            part.write_bytes(others)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    posting()
    assert names(spool, "arriving") == {part.name}
    assert part.read_bytes() == others


def test_a_sweep_takes_nothing_for_what_had_its_name_a_moment_ago(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = spool.directory / "arriving" / (arrival_name(FILE, len(FILE)) + PART)
    part.write_bytes(b"published meanwhile")
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        part.rename(part.with_suffix(""))
        part.write_bytes(b"another worker's")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    sweep_arrivals(str(spool.directory))
    assert part.read_bytes() == b"another worker's"


def test_a_copy_with_another_digest_is_no_copy(spool: Spool, posting: Callable[[], None]) -> None:
    posting()
    copy = spool.directory / "arriving" / arrival_name(FILE, len(FILE))
    write_digest(copy, sha256(b"something else").digest())
    assert not spool.accept(NAME, FILE, sha256(FILE).digest())
    assert read_digest(spool.directory / "pending" / NAME) == sha256(FILE).digest()


def test_a_copy_with_the_digest_that_is_known_is_taken(spool: Spool, posting: Callable[[], None]) -> None:
    posting()
    assert spool.accept(NAME, FILE, sha256(FILE).digest())


def test_one_that_is_taken_while_the_folder_is_swept_is_no_trouble(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    posting()
    found = list(os.scandir(spool.directory / "arriving"))
    assert spool.accept(NAME, FILE)
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: found if str(path).endswith("arriving") else real(path))
    spool.recover()
    assert names(spool, "pending") == {NAME}


def test_what_a_worker_that_died_was_writing_is_not_taken(spool: Spool) -> None:
    part = spool.directory / "arriving" / (arrival_name(FILE, len(FILE)) + PART)
    part.write_bytes(FILE[:100])
    assert not spool.accept(NAME, FILE)
    assert (spool.directory / "pending" / NAME).read_bytes() == FILE
    spool.recover()
    assert names(spool, "arriving") == set()


@pytest.mark.parametrize("call", ["fsync", "setxattr", "writev", "rename"])
def test_a_copy_that_fails_is_no_copy(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def failing(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing)
        posting()
    assert names(spool, "arriving") == set()
    assert not spool.accept(NAME, FILE)
    assert (spool.directory / "pending" / NAME).read_bytes() == FILE


def test_a_file_system_without_attributes_keeps_no_digest(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    posting()
    assert spool.accept(NAME, FILE)
    assert read_digest(spool.directory / "pending" / NAME) is None


@pytest.mark.parametrize("call", ["pread", "rename", "open"])
def test_a_copy_that_cannot_be_read_or_renamed_is_no_copy(
    spool: Spool, posting: Callable[[], None], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def failing(*arguments: object) -> object:
        if call != "pread" and "arriving" not in str(arguments[0]) and arguments[1:] != (os.O_RDONLY | os.O_CLOEXEC,):
            return real(*arguments)
        raise OSError(errno.EIO, "Input/output error")

    posting()
    monkeypatch.setattr(os, call, failing)
    assert not spool.accept(NAME, FILE)
    monkeypatch.undo()
    assert (spool.directory / "pending" / NAME).read_bytes() == FILE


def test_a_staged_attachment_is_written_here_because_it_need_not_be_durable(
    spool: Spool, posting: Callable[[], None]
) -> None:
    posting()
    assert not spool.stage(NAME, FILE)
    assert len(names(spool, "arriving")) == 2
