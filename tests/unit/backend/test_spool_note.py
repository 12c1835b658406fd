from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backend import spool_note
from backend.spool_note import NotedSpool, check_left_behind, note_spool, noted_spool
from tests.fakes.transfer_child import name_of

IDENTITY = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def _survives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever tests have their folders."""
    monkeypatch.setattr(spool_note, "file_system", lambda _: "ext4")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "index").touch()
    return folder


def make_spool(folder: Path) -> Path:
    for name in ("pending", "tombstones", "received/pending"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return make_spool(tmp_path / "spool")


def identity_of(spool: Path) -> str:
    return (spool / "identity").read_text().removesuffix("\n")


def test_the_spool_is_noted_beside_the_index(index: Path, spool: Path, tmp_path: Path) -> None:
    assert noted_spool(index) is None
    (tmp_path / "link").symlink_to(spool)
    note_spool(index, tmp_path / "link")
    assert noted_spool(index) == NotedSpool(spool, identity_of(spool))
    other = make_spool(tmp_path / "other")
    note_spool(index, other)
    note_spool(index, other)
    assert noted_spool(index) == NotedSpool(other, identity_of(other))
    assert identity_of(other) != identity_of(spool)
    assert sorted(os.listdir(index)) == ["index", "isen-spool"]


def test_what_orthanc_does_not_use_gets_no_note(tmp_path: Path, spool: Path) -> None:
    """The index is on a database server."""
    note_spool(tmp_path, spool)
    note_spool(None, spool)
    assert noted_spool(tmp_path) is noted_spool(None) is None
    assert check_left_behind(tmp_path, spool) == check_left_behind(None, spool) == []
    assert not (spool / "identity").exists()


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
    note_spool(index, tmp_path / "other")
    assert noted_spool(index) == NotedSpool(tmp_path / "other", identity_of(tmp_path / "other"))


def removed(spool: Path) -> None:
    """Its disk is not mounted, and its folder is one of that disk."""
    shutil.rmtree(spool)


def emptied(spool: Path) -> None:
    """Its disk is not mounted, and its folder is where that would be mounted."""
    removed(spool)
    spool.mkdir()


def exchanged(spool: Path) -> None:
    """Another spool is there, that of an earlier start without its disk for one."""
    emptied(spool)
    (spool / "identity").write_text(f"{IDENTITY}\n")


def spoilt(spool: Path) -> None:
    (spool / "identity").write_bytes(b"\0" * 33)


@pytest.mark.parametrize("what", [removed, emptied, exchanged, spoilt])
def test_a_spool_that_is_not_there_is_a_problem_wherever_it_should_be(
    index: Path, spool: Path, tmp_path: Path, what: Callable[[Path], None]
) -> None:
    note_spool(index, spool)
    identity = identity_of(spool)
    assert check_left_behind(index, spool) == []
    what(spool)
    (problem,) = check_left_behind(index, spool)
    assert problem.startswith(f"Isen.Storage.SpoolDirectory: {spool} is not the spool ")
    (elsewhere,) = check_left_behind(index, tmp_path / "other")
    assert elsewhere.startswith(f"Isen.Storage.SpoolDirectory: neither {tmp_path / 'other'} nor {spool}, ")
    for sentence in (problem, elsewhere):
        assert identity in sentence
        assert f"remove {index / 'isen-spool'}" in sentence

    (index / "isen-spool").unlink()  # as it says
    assert check_left_behind(index, spool) == []


def test_a_spool_of_before_there_were_identities_gets_one(index: Path, spool: Path) -> None:
    (index / "isen-spool").write_bytes(os.fsencode(spool) + b"\n")
    assert noted_spool(index) == NotedSpool(spool, "")
    assert check_left_behind(index, spool) == []
    note_spool(index, spool)
    assert noted_spool(index) == NotedSpool(spool, identity_of(spool))


def test_a_spool_that_need_not_survive_a_restart_may_vanish(
    index: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_note, "file_system", lambda _: "overlay")
    note_spool(index, spool)
    assert noted_spool(index) == NotedSpool(spool, "")
    emptied(spool)
    assert check_left_behind(index, spool) == []


def test_a_disk_without_room_for_an_identity_keeps_the_note_as_it_is(
    index: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = os.fsencode(spool) + b"\n"
    (index / "isen-spool").write_bytes(note)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.spool_note.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        note_spool(index, spool)
    assert (index / "isen-spool").read_bytes() == note
    assert not (spool / "identity").exists()
