"""The entries of the managed worklist, as those who make and change them see them."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from scp.worklists.database import FINISHED, open_for_writing
from scp.worklists.entry import Entry

_SELECT: Final = "SELECT id, created_at, order_key, data_set FROM entry "


class StoredEntry(NamedTuple):
    """One entry as it is kept."""

    id: str
    created_at: str  # UTC, `YYYYMMDDTHHMMSS` as Orthanc writes times
    order_key: str | None
    data_set: bytes


class StoreUnavailable(Exception):
    """The disk is full or failed, or another process holds the database for too long; nothing was changed."""


class WorklistStore:
    """Makes, changes and removes entries. Thread-safe, and safe beside other processes on the same folder."""

    def __init__(self, directory: Path) -> None:
        """Raises: DatabaseUnusable."""
        self._connection = open_for_writing(directory)
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All changes made inside are on stable storage when this ends, or, if it raises, none of them.

        Raises:
            StoreUnavailable: see there.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield Transaction(self._connection)
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the worklist cannot be written: {error.sqlite_errorname}") from error

    def get(self, entry_id: str) -> StoredEntry | None:
        """The entry, or None if there is none.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        found = self._read(_SELECT + "WHERE id = ?", entry_id)
        return found[0] if found else None

    def page(self, since: int, limit: int) -> list[StoredEntry]:
        """`limit` entries in the order of their creation, after the first `since`.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        return self._read(_SELECT + "ORDER BY number LIMIT ? OFFSET ?", limit, since)

    def count(self) -> int:
        """How many entries there are."""
        with self._lock:
            count: int = self._connection.execute("SELECT count(*) FROM entry").fetchone()[0]
        return count

    def _read(self, query: str, *values: str | int) -> list[StoredEntry]:
        try:
            with self._lock:
                return [StoredEntry(*row) for row in self._connection.execute(query, values)]
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the worklist cannot be read: {error.sqlite_errorname}") from error


class Transaction:
    """The changes that become durable together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection  # for tables of others, in the same transaction

    def put(self, entry: Entry, entry_id: str | None = None, order_key: str | None = None) -> str:
        """Make the entry, or put it in the place of the one with this id; returns its id, a new one without `entry_id`.

        An entry keeps its order key and the time of its creation.
        """
        entry_id = entry_id or str(uuid4())
        self.connection.execute(
            "INSERT INTO entry (id, revision, created_at, changed_at, order_key, day, modality, stations, patient_id,"
            " accession_number, patient_name, status, data_set) VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET revision = revision + 1, day = excluded.day, modality = excluded.modality,"
            " stations = excluded.stations, patient_id = excluded.patient_id,"
            " accession_number = excluded.accession_number, patient_name = excluded.patient_name,"
            " status = excluded.status, data_set = excluded.data_set, changed_at = excluded.changed_at",
            (
                entry_id,
                _orthanc_time(time.time()),
                time.time(),
                order_key,
                entry.day,
                entry.modality,
                entry.stations,
                entry.patient_id,
                entry.accession_number,
                entry.patient_name,
                entry.status,
                entry.data_set,
            ),
        )
        return entry_id

    def by_order_prefix(self, prefix: str) -> list[StoredEntry]:
        """Every entry whose order key begins so."""
        rows = self.connection.execute(
            _SELECT + "WHERE order_key >= ? AND order_key < ? ORDER BY number",
            (prefix, prefix + "\U0010ffff"),
        )
        return [StoredEntry(*row) for row in rows]

    def of_patient(self, patient_id: str, accession_number: str) -> list[StoredEntry]:
        """Every entry of this patient or with this Accession Number; empty ones name nobody."""
        rows = self.connection.execute(
            _SELECT + "WHERE (patient_id = ?1 AND ?1 != '') OR (accession_number = ?2 AND ?2 != '') ORDER BY number",
            (patient_id, accession_number),
        )
        return [StoredEntry(*row) for row in rows]

    def remove(self, entry_id: str) -> bool:
        """Remove the entry; whether there was one."""
        return self.connection.execute("DELETE FROM entry WHERE id = ?", (entry_id,)).rowcount > 0

    def remove_before(self, day: int) -> int:
        """Remove every entry whose start date is before `day` (`date.toordinal`); how many there were."""
        return self.connection.execute("DELETE FROM entry WHERE day < ?", (day,)).rowcount

    def remove_created_before(self, moment: float) -> int:
        """Remove every entry that was made before this Unix time; how many there were."""
        return self.connection.execute("DELETE FROM entry WHERE created_at < ?", (_orthanc_time(moment),)).rowcount

    def remove_finished_before(self, moment: float) -> int:
        """Remove every entry that had ended, or was cancelled, before this Unix time; how many there were."""
        return self.connection.execute(
            f"DELETE FROM entry WHERE status IN {FINISHED} AND changed_at < ?",  # noqa: S608 - a constant
            (moment,),
        ).rowcount


def _orthanc_time(moment: float) -> str:
    """UTC, as Orthanc writes times; in the order of time as texts too."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%S")
