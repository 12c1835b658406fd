"""Folders of ours say which version of Isen can work with them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.spool import Spool
from config.folder_format import CACHE, FILE, SPOOL, WORKER_FOLDERS, Format, UnusableFormat, formats
from scp.durable_folder import DurableFolder
from scp.received.journal import Journal


def third(*, fails_at: int = 0, done: list[int] | None = None) -> Format:
    """A format of two migrations, of which one may fail once."""

    def migration(version: int) -> None:
        if version == fails_at:
            raise OSError("made up")
        if done is not None:
            done.append(version)

    return Format("spool", 3, "do something", {1: lambda _: migration(1), 2: lambda _: migration(2)})


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_new_folder_is_of_this_version(tmp_path: Path) -> None:
    third().adopt(tmp_path / "a" / "spool")
    assert (tmp_path / "a" / "spool" / FILE).read_text() == "isen spool 3\n"
    assert [path.name for path in (tmp_path / "a" / "spool").iterdir()] == [FILE]
    third().check(tmp_path / "a" / "spool")
    third().check(tmp_path / "not there yet")
    assert not (tmp_path / "not there yet").exists()


@pytest.mark.parametrize(
    "make",
    [
        third().adopt,
        lambda folder: DurableFolder(folder.parent),
        lambda folder: Journal(folder.parent, 1000),
        lambda folder: Spool(folder.parent, 1000),
    ],
)
def test_the_entry_of_each_folder_that_is_made_outlives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    make(tmp_path / "a" / "b" / "incoming")
    assert {str(tmp_path / path) for path in ("", "a", "a/b")} <= synced


def test_a_folder_without_a_version_is_of_the_first_and_is_migrated_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "pending").mkdir()
    done: list[int] = []
    third(done=done).adopt(tmp_path)
    assert done == [1, 2]
    third(done=done).adopt(tmp_path)
    assert done == [1, 2]
    assert (tmp_path / FILE).read_text() == "isen spool 3\n"


def test_a_migration_that_was_interrupted_goes_on_with_the_step_that_failed(tmp_path: Path) -> None:
    (tmp_path / "pending").mkdir()
    done: list[int] = []
    with pytest.raises(OSError, match="made up"):
        third(fails_at=2, done=done).adopt(tmp_path)
    assert (tmp_path / FILE).read_text() == "isen spool 2\n"
    third(done=done).adopt(tmp_path)
    assert done == [1, 2]


def test_several_processes_may_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "pending").mkdir()
    done: list[int] = []
    threads = [threading.Thread(target=third(done=done).adopt, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1, 2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("isen spool 2\n", "is of a later Isen (format 2 of the spool; this one knows 1): run that version, or "),
        ("isen cache 1\n", "holds Isen's cache, not its spool"),
        ("", "is not what Isen writes there"),
        ("isen spool 0\n", "is not what Isen writes there"),
        ("isen spool -1\n", "is not what Isen writes there"),
        ("isen spool 1\nmore", "is not what Isen writes there"),
        ("\0" * 10000, "is not what Isen writes there"),
    ],
)
def test_what_this_version_cannot_work_with_is_refused_and_left_alone(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / FILE).write_text(text)
    (tmp_path / "pending").mkdir()
    before = tree(tmp_path)
    for refuse in (SPOOL.check, SPOOL.adopt):
        with pytest.raises(UnusableFormat) as refused:
            refuse(tmp_path)
        assert sentence in str(refused.value)
    assert tree(tmp_path) == before


def test_a_version_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(UnusableFormat, match="cannot be read"):
        CACHE.check(tmp_path)


def test_every_earlier_version_has_a_migration() -> None:
    for kind in formats(Path("/spool"), Path("/cache")).values():
        assert set(kind.migrations) == set(range(1, kind.version)), kind.kind
        assert kind.otherwise
    assert {"spool", "cache", *WORKER_FOLDERS} == {
        kind.kind for kind in formats(Path("/spool"), Path("/cache")).values()
    }
