"""The journal of acknowledged instances. Two `Journal`s of a folder are two workers: flock(2) tells them apart."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from scp.received.journal import AlreadyWaiting, Damaged, Entry, Journal, JournalFull

UID = "1.2.3"
ORIGIN = {"RemoteAET": "CT1", "CalledAET": "ISEN", "RemoteIP": "192.0.2.7"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, 1000)


def accept(journal: Journal, content: bytes = b"content", uid: str = UID, patience: float = 0.0) -> Entry:
    return journal.accept(uid, [content], len(content), ORIGIN, patience)


def die(*entries: Entry) -> None:
    """What the kernel does for a worker that is killed."""
    for entry in entries:
        os.close(entry.descriptor)


def content_of(entry: Entry) -> bytes:
    return b"".join(entry.blocks(verified=True))


def test_an_accepted_instance_is_a_whole_file_that_can_be_copied(journal: Journal, tmp_path: Path) -> None:
    entry = journal.accept(UID, [b"head", memoryview(b"er"), b"data set"], 14, ORIGIN, 0)
    assert [path.read_bytes() for path in (tmp_path / "pending").iterdir()] == [b"headerdata set"]
    assert not list((tmp_path / "incoming").iterdir())
    assert content_of(entry) == content_of(entry) == b"headerdata set"
    assert UID not in str(list(tmp_path.rglob("*")))


def test_it_is_synced_before_it_gets_its_name_and_its_folder_before_it_is_acknowledged(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        synced.append((kind, os.listdir(tmp_path / "pending")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    entry = accept(journal)
    assert synced == [("file", []), ("folder", [entry.name])]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_fails_leaves_nothing_behind(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls = iter(range(1, 3))
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if next(calls) == failing:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        accept(journal)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert journal.report()["Count"] == 0
    accept(journal, b"x" * 1000)  # its room was given back


def test_an_instance_of_another_length_than_was_said_is_not_accepted(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="length"):
        journal.accept(UID, [b"cont", b"ent"], 8, ORIGIN, 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_second_instance_of_the_same_uid_has_to_wait_for_the_first(journal: Journal, tmp_path: Path) -> None:
    first = accept(journal, b"first")
    other = Journal(tmp_path, 1000)
    for one in (journal, other):
        with pytest.raises(AlreadyWaiting):
            accept(one, b"second")
        assert not one.wait_until_gone(UID, 0.05)
    threading.Timer(0.1, journal.finish, [first]).start()
    assert other.wait_until_gone(UID, 10)
    assert content_of(accept(other, b"second")) == b"second"


def test_what_a_living_worker_owns_is_not_adopted(journal: Journal, tmp_path: Path) -> None:
    accept(journal)
    assert Journal(tmp_path, 1000).adopt() == []
    assert journal.adopt() == []


def test_what_a_dead_worker_left_is_adopted_once_with_its_origin(journal: Journal, tmp_path: Path) -> None:
    die(accept(journal, b"one", "1"), accept(journal, b"two", "2"))
    successor, another = Journal(tmp_path, 1000), Journal(tmp_path, 1000)
    adopted = successor.adopt()
    assert sorted(map(content_of, adopted)) == [b"one", b"two"]
    assert all(entry.origin == ORIGIN for entry in adopted)
    assert another.adopt() == []
    assert successor.report()["Count"] == 2


@pytest.mark.parametrize("damaged", [b"CONTENT", b"con"])
def test_a_file_that_is_no_longer_what_was_received_is_noticed(
    journal: Journal, tmp_path: Path, damaged: bytes
) -> None:
    entry = accept(journal)
    (tmp_path / "pending" / entry.name).write_bytes(damaged)
    die(entry)
    (adopted,) = Journal(tmp_path, 1000).adopt()
    with pytest.raises(Damaged):
        content_of(adopted)


def test_a_file_that_has_become_shorter_is_noticed_without_its_digest(journal: Journal, tmp_path: Path) -> None:
    entry = accept(journal)
    (tmp_path / "pending" / entry.name).write_bytes(b"con")
    with pytest.raises(Damaged):
        list(entry.blocks(verified=False))


def test_a_finished_instance_is_gone(journal: Journal, tmp_path: Path) -> None:
    entry = accept(journal)
    assert journal.is_waiting(UID)
    journal.finish(entry)
    assert not journal.is_waiting(UID)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_refused_instance_is_kept_aside_and_counted(journal: Journal, tmp_path: Path) -> None:
    journal.set_aside(accept(journal))
    journal.set_aside(accept(journal))
    assert not journal.is_waiting(UID)
    assert [path.read_bytes() for path in (tmp_path / "refused").iterdir()] == [b"content", b"content"]
    assert journal.report() == {"Count": 0, "Bytes": 0, "OldestSeconds": None, "RefusedCount": 2}


def test_what_could_not_be_kept_aside_whole_is_so_later_once(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = accept(journal)

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        journal.set_aside(entry)
    monkeypatch.undo()
    with pytest.raises(AlreadyWaiting):  # its name is not free before it is safe elsewhere
        accept(journal, b"later")
    journal.set_aside(entry)
    assert [path.read_bytes() for path in (tmp_path / "refused").iterdir()] == [b"content"]
    assert not journal.is_waiting(UID)
    assert journal.report()["Count"] == 0


def test_one_that_comes_while_the_one_before_is_finished_is_owed_like_any_other(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = accept(journal, b"first")
    later: list[Entry] = []
    unlink = Path.unlink

    def unlink_slowly(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.name == first.name and not later:
            later.append(accept(journal, b"second"))

    monkeypatch.setattr(Path, "unlink", unlink_slowly)
    journal.finish(first)
    assert journal.report()["Count"] == 1
    journal.finish(*later)
    assert journal.report()["Count"] == 0


def test_a_full_journal_takes_nothing_until_there_is_room(journal: Journal) -> None:
    first = accept(journal, bytes(900), "1")
    with pytest.raises(JournalFull):
        accept(journal, bytes(200), "2")
    threading.Timer(0.1, journal.finish, [first]).start()
    accept(journal, bytes(200), "2", patience=10)
    assert journal.report()["Bytes"] == 200


def test_the_report_says_how_much_is_owed_since_when(journal: Journal) -> None:
    accept(journal, bytes(100), "1")
    accept(journal, bytes(50), "2")
    report = journal.report()
    assert (report["Count"], report["Bytes"]) == (2, 150)
    assert 0 <= report["OldestSeconds"] < 60


def test_files_that_were_never_acknowledged_are_swept_but_not_those_being_written(tmp_path: Path) -> None:
    Journal(tmp_path, 1000)
    old, young = tmp_path / "incoming" / "old", tmp_path / "incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    Journal(tmp_path, 1000)
    assert list((tmp_path / "incoming").iterdir()) == [young]
