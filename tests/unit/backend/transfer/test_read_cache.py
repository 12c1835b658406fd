from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from backend.atomic_file import read_digest, write_digest
from backend.transfer import read_cache
from backend.transfer.counters import Counters
from backend.transfer.read_cache import ReadCache
from tests.fakes.transfer_child import name_of

MAXIMUM = 1000  # bytes


@pytest.fixture
def cache(tmp_path: Path) -> ReadCache:
    cache = ReadCache(tmp_path / "cache", MAXIMUM, Counters())
    cache.recover()
    return cache


def adopt(cache: ReadCache, number: int, size: int = 100, read_at: float | None = None) -> Path:
    source = cache.directory.parent / name_of(number)
    source.write_bytes(bytes([number % 256]) * size)
    write_digest(source, bytes(32))
    if read_at is not None:
        os.utime(source, (read_at, read_at))
    cache.adopt(source.name, source, size)
    assert not source.exists()
    return path_of(cache, number)


def path_of(cache: ReadCache, number: int) -> Path:
    return cache.directory / "objects" / name_of(number)[:2] / name_of(number)


def stored(cache: ReadCache) -> int:
    return sum(path.stat().st_size for path in (cache.directory / "objects").rglob("*") if path.is_file())


def test_adopting_moves_the_file_with_its_digest(cache: ReadCache) -> None:
    path = adopt(cache, 1)
    assert path.read_bytes() == b"\1" * 100
    assert read_digest(path) == bytes(32)
    assert cache.report() == {"Bytes": 100, "MaximumBytes": MAXIMUM, "Count": 1}


def test_the_folders_are_made_once_at_start_and_private(tmp_path: Path) -> None:
    objects = tmp_path / "cache" / "objects"
    for _ in range(2):
        ReadCache(tmp_path / "cache", MAXIMUM, Counters()).recover()
        assert sorted(path.name for path in objects.iterdir()) == [f"{number:02x}" for number in range(256)]
    assert {path.stat().st_mode & 0o777 for path in objects.iterdir()} == {0o700}


def test_a_folder_that_was_removed_is_made_again(cache: ReadCache) -> None:
    path_of(cache, 1).parent.rmdir()
    assert adopt(cache, 1).exists()


def test_a_disk_too_full_for_folders_keeps_no_file_from_being_known(
    cache: ReadCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3, 12):
        adopt(cache, number, read_at=1000.0 + number)
    path_of(cache, 2).parent.rmdir()

    def full(path: Path, mode: int = 0, **_options: bool) -> None:
        if not path.exists():
            raise OSError(errno.ENOSPC, "no space left on device", str(path))

    again = ReadCache(cache.directory, MAXIMUM * 10, Counters())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        again.recover()
    assert "cache_unusable" in caplog.text
    assert again.report()["Count"] == 8  # one was evicted to make room
    assert adopt(again, 2).exists()


def test_the_budget_holds_and_the_least_recently_read_go(cache: ReadCache) -> None:
    for number in range(10):
        adopt(cache, number, read_at=1000.0 + number)
    os.utime(path_of(cache, 0))  # the plugin has just read it
    adopt(cache, 10)
    assert stored(cache) == cache.report()["Bytes"] <= MAXIMUM
    assert path_of(cache, 0).exists()
    assert path_of(cache, 10).exists()
    assert not path_of(cache, 1).exists()


def test_what_exceeds_the_budget_alone_is_dropped_and_evicts_nothing(cache: ReadCache) -> None:
    adopt(cache, 1)
    assert not adopt(cache, 2, size=MAXIMUM + 1).exists()
    assert path_of(cache, 1).exists()


def test_a_budget_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    cache = ReadCache(tmp_path / "cache", 0, Counters())
    assert not adopt(cache, 1).exists()


@pytest.mark.parametrize(
    ("free", "wanted", "kept"),
    [
        (500, 500, 9),  # there is room
        (300, 500, 7),
        (900, 50_000, 9),  # more than the disk has for both: half of that is free
        (100, 50_000, 5),
        (100, 0, 9),  # the spool has all that it may take
    ],
)
def test_stores_on_the_same_disk_have_the_room_they_may_take_or_half_of_it(
    cache: ReadCache, monkeypatch: pytest.MonkeyPatch, free: int, wanted: int, kept: int
) -> None:
    for number in range(9):
        adopt(cache, number, read_at=1000.0 + number)
    disk = os.statvfs_result((1, 1, 10_000, free, free, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    cache.leave_room(wanted)
    assert cache.report()["Count"] == kept
    assert path_of(cache, 8).exists()


def test_reservations_count(cache: ReadCache) -> None:
    assert cache.reserve(600)
    assert not cache.reserve(600)
    adopt(cache, 1, size=500)
    assert stored(cache) == 0
    cache.release(600)
    adopt(cache, 1, size=500)
    assert stored(cache) == 500


def test_files_the_plugin_has_unlinked_are_forgotten(cache: ReadCache) -> None:
    for number in range(10):
        adopt(cache, number, read_at=1000.0 + number)
    path_of(cache, 0).unlink()
    for number in range(10, 20):
        adopt(cache, number)
    assert cache.report()["Bytes"] == stored(cache) <= MAXIMUM


def test_dropping_twice_counts_once(cache: ReadCache) -> None:
    adopt(cache, 1)
    adopt(cache, 2)
    cache.drop(name_of(1))
    cache.drop(name_of(1))
    cache.drop(name_of(3))
    assert cache.report() == {"Bytes": 100, "MaximumBytes": MAXIMUM, "Count": 1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_disk_that_cannot_take_it_empties_the_spool_all_the_same(
    cache: ReadCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        adopt(cache, 1)
        adopt(cache, 2)
    assert [record.message.split()[0] for record in caplog.records] == ["cache_unusable"]
    assert cache.report()["Bytes"] == 0
    assert adopt(cache, 3).exists()


def test_another_file_system_is_copied_to(tmp_path: Path) -> None:
    """Or, without a second file system on this machine, what rename(2) says there."""
    shm = Path("/dev/shm")  # noqa: S108 - a file system that is not the one of tmp_path
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    source = tmp_path / name_of(1)
    source.write_bytes(b"content")
    directory = shm / f"isen-test-{os.getpid()}"
    cache = ReadCache(directory, MAXIMUM, Counters())
    cache.recover()
    try:
        cache.adopt(source.name, source, 7)
        assert not source.exists()
        assert path_of(cache, 1).read_bytes() == b"content"
        assert os.listdir(directory / "fetching") == []
        cache.drop(name_of(1))
    finally:
        shutil.rmtree(directory)


def test_a_copy_that_fails_leaves_no_temporary_file(cache: ReadCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "cross-device")

    def fill_the_disk(_: Path, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(shutil, "copyfile", fill_the_disk)
    adopt(cache, 1)
    assert os.listdir(cache.directory / "fetching") == []
    assert cache.report()["Bytes"] == 0


def test_a_source_that_vanished_is_no_failure_of_the_cache(cache: ReadCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.adopt(name_of(1), cache.directory.parent / "gone", 100)
    assert cache.report() == {"Bytes": 0, "MaximumBytes": MAXIMUM, "Count": 0}
    assert caplog.text == ""


def test_recovery_indexes_what_is_there_and_sweeps_what_was_being_fetched(cache: ReadCache) -> None:
    for number in range(5):
        adopt(cache, number, read_at=1000.0 + number)
    (cache.directory / "fetching" / "left over").write_bytes(b"x")
    (cache.directory / "objects" / "ab").mkdir(exist_ok=True)
    (cache.directory / "objects" / "ab" / "stray").write_bytes(b"x")
    again = ReadCache(cache.directory, 300, Counters())
    again.recover()
    assert os.listdir(cache.directory / "fetching") == []
    assert again.report()["Bytes"] <= 300
    assert path_of(again, 4).exists()
    assert not path_of(again, 0).exists()
    assert (cache.directory / "objects" / "ab" / "stray").exists()


def test_a_cache_that_cannot_be_used_at_all_keeps_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restart of the process, too: the disk may have become full or read-only meanwhile."""
    (tmp_path / "cache").write_text("not a folder")
    cache = ReadCache(tmp_path / "cache", MAXIMUM, Counters())
    cache.recover()
    source = tmp_path / name_of(1)
    source.write_bytes(b"bytes")
    cache.adopt(source.name, source, 5)
    assert not source.exists()
    assert caplog.text.count("cache_unusable") == 1


def test_after_a_restart_of_the_machine_the_youngest_are_dropped(
    cache: ReadCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes may never have reached the disk. A restart of the process alone drops nothing."""
    old, young = adopt(cache, 1), adopt(cache, 2)
    ReadCache(cache.directory, MAXIMUM, Counters()).recover()
    assert young.exists()
    (cache.directory / "checked_boot").write_text("an earlier boot")
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda _: 0.0 * uptime)  # booted just now
    monkeypatch.setattr(read_cache, "_YOUNG", young.stat().st_ctime - old.stat().st_ctime)
    again = ReadCache(cache.directory, MAXIMUM, Counters())
    again.recover()
    assert old.exists()
    assert not young.exists()
    assert again.report()["Count"] == 1


def test_a_file_that_cannot_be_evicted_is_tried_again_and_ends_the_attempt(
    cache: ReadCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adopt(cache, 1, 600, read_at=1000.0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert not cache.reserve(600)
    assert "eviction_failed" in caplog.text
    assert cache.reserve(600)
    assert not path_of(cache, 1).exists()


def test_what_was_dropped_is_not_evicted_again(cache: ReadCache) -> None:
    adopt(cache, 1, 400, read_at=1000.0)
    adopt(cache, 2, 400, read_at=2000.0)
    cache.drop(name_of(1))
    assert cache.reserve(700)
    assert cache.report()["Bytes"] == 0


def test_strays_in_the_folder_are_left_alone(cache: ReadCache, caplog: pytest.LogCaptureFixture) -> None:
    adopt(cache, 1)
    (cache.directory / "objects" / "README").touch()
    (path_of(cache, 1).parent / "notes").touch()
    again = ReadCache(cache.directory, MAXIMUM, Counters())
    again.recover()
    assert again.report()["Count"] == 1
    assert "stray_file" in caplog.text


@pytest.mark.parametrize("digest", [None, bytes(32)])
def test_a_copy_to_another_file_system_has_the_digest_if_there_is_one(
    cache: ReadCache, monkeypatch: pytest.MonkeyPatch, digest: bytes | None
) -> None:
    source = cache.directory.parent / name_of(1)
    source.write_bytes(b"x" * 10)
    if digest is not None:
        write_digest(source, digest)
    real = os.rename

    def rename(old: Path, new: Path) -> None:
        if old == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    cache.adopt(source.name, source, 10)
    assert path_of(cache, 1).read_bytes() == b"x" * 10
    assert read_digest(path_of(cache, 1)) == digest


def test_a_file_that_is_put_in_again_counts_once(cache: ReadCache) -> None:
    adopt(cache, 1)
    assert adopt(cache, 1, size=200).read_bytes() == b"\1" * 200
    assert cache.report() == {"Bytes": 200, "MaximumBytes": MAXIMUM, "Count": 1}
