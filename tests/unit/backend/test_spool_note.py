from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.spool_note import check_left_behind, note_spool, noted_spool
from tests.fakes.transfer_child import name_of


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "index").touch()
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    for name in ("pending", "tombstones", "received/pending"):
        (folder / name).mkdir(parents=True)
    return folder


def test_the_spool_is_noted_beside_the_index(index: Path, spool: Path, tmp_path: Path) -> None:
    assert noted_spool(index) is None
    (tmp_path / "link").symlink_to(spool)
    note_spool(index, tmp_path / "link")
    assert noted_spool(index) == spool
    note_spool(index, tmp_path / "other")
    note_spool(index, tmp_path / "other")
    assert noted_spool(index) == tmp_path / "other"
    assert sorted(os.listdir(index)) == ["index", "isen-spool"]


def test_what_orthanc_does_not_use_gets_no_note(tmp_path: Path, spool: Path) -> None:
    """The index is on a database server."""
    note_spool(tmp_path, spool)
    note_spool(None, spool)
    assert noted_spool(tmp_path) is noted_spool(None) is None


def test_a_note_that_somebody_has_spoilt_says_nothing(index: Path, spool: Path) -> None:
    (index / "isen-spool").write_bytes(b"")
    assert noted_spool(index) is None
    assert check_left_behind(index, spool) == []


@pytest.mark.parametrize("place", ["pending", "tombstones", "received/pending"])
def test_another_spool_is_a_problem_while_the_one_before_holds_something(
    index: Path, spool: Path, tmp_path: Path, place: str
) -> None:
    note_spool(index, spool)
    assert check_left_behind(index, tmp_path / "other") == []
    (spool / place / name_of(1)).touch()
    assert check_left_behind(index, spool) == []
    (problem,) = check_left_behind(index, tmp_path / "other")
    assert problem.startswith(f"Isen.Storage.SpoolDirectory: {spool}, ")
    assert ("1 attachments" in problem) == (place != "tombstones")
    assert ("1 removals" in problem) == (place == "tombstones")


def test_a_spool_that_was_moved_is_none_that_was_left_behind(index: Path, spool: Path, tmp_path: Path) -> None:
    (spool / "pending" / name_of(1)).touch()
    note_spool(index, spool)
    spool.rename(tmp_path / "other")
    assert check_left_behind(index, tmp_path / "other") == []
