"""Group commit of directory entries: each caller waits for a sync that began after it called."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from backend.atomic_file import DirectorySync, SyncFailed, read_all, read_digest, read_part, write_digest


class SlowDisk:
    """os.fsync that waits for the test's permission, one call at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.calls = 0
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, _descriptor: int) -> None:
        self.calls += 1
        error = self.error
        self.began.release()
        assert self.may_end.acquire(timeout=10)
        if error:
            raise error


def start(sync: DirectorySync, outcome: list[object]) -> threading.Thread:
    def run() -> None:
        try:
            sync.sync()
            outcome.append("ok")
        except OSError as error:
            outcome.append(error.errno)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_who_comes_during_a_sync_waits_for_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = DirectorySync(tmp_path)
    disk = SlowDisk(monkeypatch)
    outcome: list[object] = []
    first = start(sync, outcome)
    assert disk.began.acquire(timeout=10)
    late = [start(sync, outcome) for _ in range(5)]
    disk.may_end.release()
    assert disk.began.acquire(timeout=10)  # the second sync has begun: the late ones are not done yet
    first.join(10)
    assert outcome == ["ok"]
    while disk.calls * len(late) and any(thread.is_alive() for thread in late):
        disk.may_end.release()
        for thread in late:
            thread.join(0.05)
    assert outcome == ["ok"] * 6
    assert 2 <= disk.calls <= 6


def test_a_failed_sync_fails_everyone_it_covered_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = DirectorySync(tmp_path)
    disk = SlowDisk(monkeypatch)
    disk.error = OSError(errno.EIO, "Input/output error")
    outcome: list[object] = []
    failing = start(sync, outcome)
    assert disk.began.acquire(timeout=10)
    disk.error = None
    disk.may_end.release()
    failing.join(10)
    assert outcome == [errno.EIO]
    disk.may_end.release()
    sync.sync()


def test_after_a_failed_sync_the_directory_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells each descriptor of an error once; then it says all is well, which it may not be."""
    synced: list[int] = []
    real_close = os.close

    def close(descriptor: int) -> None:
        real_close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")

    opened: list[object] = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments) or real_open(*arguments))
    monkeypatch.setattr(os, "fsync", fsync)
    sync = DirectorySync(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        with pytest.raises(SyncFailed, match=str(tmp_path)):
            sync.sync()
    sync.sync()
    sync.close()
    assert len(opened) == 2
    assert synced == [tmp_path.stat().st_ino] * 2


def test_a_file_without_digest_says_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert read_digest(path) is None
    write_digest(path, b"d" * 32)
    assert read_digest(path) == b"d" * 32


def test_a_file_system_without_extended_attributes_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_arguments: object) -> bytes:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    write_digest(tmp_path, b"d" * 32)
    assert read_digest(tmp_path) is None


def test_read_all_reads_whole_files_of_any_size(tmp_path: Path) -> None:
    for content in (b"", b"x", os.urandom(3_000_000)):
        path = tmp_path / "file"
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDONLY)
        assert read_all(descriptor) == content
        os.close(descriptor)


def test_a_part_beyond_the_end_is_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDONLY)
    assert read_part(descriptor, 4, 8) == b"4567"
    assert read_part(descriptor, 8, 20) == b"89"
    assert read_part(descriptor, 20, 30) == b""
    os.close(descriptor)
