from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.transfer.kept_names import KeptNames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "uploaded"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"image")
    return path


def test_a_linked_file_is_kept_whatever_happens_to_its_first_name(folder: Path, source: Path) -> None:
    kept = KeptNames(folder, 1000)
    kept.link("a", source)
    kept.link("a", source)  # an upload that is repeated
    source.unlink()
    kept.sync()
    kept.expire()
    assert (folder / "a").read_bytes() == b"image"
    assert kept.has("a")


def test_a_taken_file_is_no_longer_where_it_was(folder: Path, source: Path) -> None:
    kept = KeptNames(folder, 1000)
    kept.take("a", source)
    assert not source.exists()
    assert os.listdir(folder) == ["a"]


def test_what_has_been_here_long_enough_goes(folder: Path, source: Path) -> None:
    kept = KeptNames(folder, 0)
    kept.link("a", source)
    kept.expire()
    assert os.listdir(folder) == []
    assert not kept.has("a")


def test_nothing_expires_while_it_is_held(folder: Path, source: Path) -> None:
    kept = KeptNames(folder, 0)
    kept.link("a", source)
    kept.hold()
    kept.expire()
    assert os.listdir(folder) == ["a"]
    kept.let_go()
    kept.expire()
    assert os.listdir(folder) == []


def test_a_restart_keeps_what_is_here_and_begins_anew(folder: Path, source: Path) -> None:
    KeptNames(folder, 1000).link("a", source)
    os.utime(folder / "a", (0, 0))
    again = KeptNames(folder, 1000)
    again.expire()
    assert os.listdir(folder) == ["a"]
    again.drop("a")
    again.drop("a")
    assert os.listdir(folder) == []


def test_the_oldest_go_first_and_a_repeated_upload_makes_young_again(folder: Path, source: Path) -> None:
    kept = KeptNames(folder, 1000)
    for name in "abc":
        kept.link(name, source)
    kept.link("a", source)
    for name in "bc":
        kept._since[name] -= 2000
    kept.expire()
    assert os.listdir(folder) == ["a"]


def test_on_a_disk_that_is_nearly_full_stores_come_first(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, gives_way, is_kept in ((24, True, False), (26, True, True), (24, False, True)):
        kept = KeptNames(folder, 1000, gives_way=gives_way)
        kept.link("a", source)
        fields = list(os.statvfs(folder))
        fields[1:5] = 4096, 100, free, free  # f_frsize, f_blocks, f_bfree, f_bavail
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _, fields=fields: os.statvfs_result(fields))
            kept.expire()
        assert kept.has("a") is is_kept
