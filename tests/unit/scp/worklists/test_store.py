"""The file of the managed worklist: what is durable, what is refused, who may read it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from scp.worklists.database import FILE, DatabaseUnusable, open_for_reading, open_for_writing
from scp.worklists.entry import Entry, make_entry
from scp.worklists.store import StoreUnavailable, WorklistStore
from tests.fakes.worklists import worklist_entry

WRITER = """
import sys
from pathlib import Path
from scp.worklists.entry import make_entry
from scp.worklists.store import WorklistStore
from tests.fakes.worklists import worklist_entry
store = WorklistStore(Path(sys.argv[1]))
for number in range(1, 100000):
    entry = make_entry(worklist_entry(number), "NOBODY")[0]
    with store.transaction() as changes:
        made = changes.put(entry)
    print(made, flush=True)
"""


def entry(number: int = 1) -> Entry:
    return make_entry(worklist_entry(number), "NOBODY")[0]


def test_an_entry_is_put_read_changed_and_removed(tmp_path: Path) -> None:
    store = WorklistStore(tmp_path)
    with store.transaction() as changes:
        made = changes.put(entry(1))
    stored = store.get(made)
    assert stored
    assert stored.data_set == entry(1).data_set
    with store.transaction() as changes:
        assert changes.put(entry(2), made) == made
    changed = store.get(made)
    assert changed
    assert changed.data_set == entry(2).data_set
    assert changed.created_at == stored.created_at
    assert store.count() == 1
    with store.transaction() as changes:
        assert changes.remove(made)
        assert not changes.remove(made)
    assert store.get(made) is None


def test_pages_are_in_the_order_of_creation(tmp_path: Path) -> None:
    store = WorklistStore(tmp_path)
    with store.transaction() as changes:
        ids = [changes.put(entry(number)) for number in range(5)]
    assert [one.id for one in store.page(1, 3)] == ids[1:4]


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = WorklistStore(tmp_path)
    with pytest.raises(AttributeError), store.transaction() as changes:
        changes.put(entry()), changes.put(None)  # type: ignore[arg-type]  # it is to fail
    assert store.count() == 0
    with store.transaction() as changes:
        changes.put(entry())
    assert store.count() == 1


def test_two_processes_may_write_and_one_that_waits_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scp.worklists.database.WRITE_PATIENCE", 0.1)
    first, second = WorklistStore(tmp_path), WorklistStore(tmp_path)
    with first.transaction() as changes:
        changes.put(entry(1))
        with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"), second.transaction():
            pass
    with second.transaction() as changes:
        changes.put(entry(2))
    assert first.count() == 2


def test_every_entry_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    acknowledged = [writer.stdout.readline().strip() for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += writer.stdout.read().splitlines()[:-1]  # the last line may be cut
    writer.wait()
    store = WorklistStore(tmp_path)
    assert all(store.get(one) for one in acknowledged)


def test_an_acknowledged_transaction_has_been_synchronized(tmp_path: Path) -> None:
    """SQLite's promise rests on these two settings; a power cut cannot be had in a test."""
    connection = open_for_writing(tmp_path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    store = WorklistStore(folder)
    with store.transaction() as changes:
        changes.put(entry())
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_expired_entries_are_removed_by_their_day(tmp_path: Path) -> None:
    store = WorklistStore(tmp_path)
    with store.transaction() as changes:
        ids = {changes.put(entry(number)): entry(number).day for number in range(1, 8)}
    limit = sorted(ids.values())[3]
    with store.transaction() as changes:
        assert changes.remove_before(limit) == 3
    assert {one.id for one in store.page(0, 10)} == {made for made, day in ids.items() if day >= limit}


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    open_for_writing(tmp_path).execute("PRAGMA user_version = 99")
    for opening in (open_for_writing, open_for_reading):
        with pytest.raises(DatabaseUnusable, match="version 99"):
            opening(tmp_path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, " * 1000)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        open_for_writing(tmp_path)
    assert (tmp_path / FILE).stat().st_size == 16000


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable):
        open_for_reading(tmp_path)
    assert list(tmp_path.iterdir()) == []
    WorklistStore(tmp_path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        open_for_reading(tmp_path).execute("DELETE FROM entry")
