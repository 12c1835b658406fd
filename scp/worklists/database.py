"""The file of the managed worklist: one SQLite database, written by our processes and read by every SCP worker.

    <ManagedDirectory>/worklists.sqlite                the entries, their index, and the HL7 messages acknowledged
    <ManagedDirectory>/worklists.sqlite-wal, …-shm     SQLite's write-ahead log; belongs to the first file
    <ManagedDirectory>/rejected/                       HL7 messages that could not be used, see `scp.hl7.audit`

What a transaction has written is on stable storage when its COMMIT returns: the log is synchronized (synchronous=FULL),
and SQLite synchronizes the folder when it makes the log. Readers never wait for writers and see whole transactions.
One row is one entry; its data set is DICOM, so nothing but SQLite is needed to get at it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from config.folder_format import sync_folder

FILE: Final = "worklists.sqlite"
VERSION: Final = 2  # of the schema
FINISHED: Final = "('COMPLETED', 'DISCONTINUED', 'CANCELED')"  # ScheduledProcedureStepStatus of what is over
WRITE_PATIENCE: Final = 5.0  # seconds for another process's transaction to end
READ_CACHE: Final = 8 * 1024  # KiB of pages per worker

_SCHEMA: Final = f"""
CREATE TABLE entry (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of creation; never used twice
    id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,                 -- counts the changes of this entry
    created_at TEXT NOT NULL,                  -- UTC, as Orthanc writes times
    changed_at REAL NOT NULL DEFAULT 0,        -- seconds since the epoch
    order_key TEXT,                            -- what the sender of HL7 orders knows the step by; one step each
    day INTEGER NOT NULL,
    modality TEXT NOT NULL,
    stations TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    accession_number TEXT NOT NULL,
    patient_name TEXT NOT NULL,
    status TEXT NOT NULL,
    data_set BLOB NOT NULL
);
CREATE UNIQUE INDEX entry_order ON entry (order_key) WHERE order_key IS NOT NULL;
CREATE INDEX entry_day ON entry (  -- all that queries test: rows are read only for what is answered
    day, modality, stations, status, patient_id, accession_number, patient_name, revision
);
CREATE INDEX entry_created ON entry (created_at);
CREATE INDEX entry_finished ON entry (changed_at) WHERE status IN {FINISHED};
CREATE INDEX entry_patient ON entry (patient_id);
CREATE INDEX entry_accession ON entry (accession_number);
CREATE TABLE message (
    sender TEXT NOT NULL,                      -- who sent it: a digest of MSH-3 and MSH-4
    control_id TEXT NOT NULL,                  -- MSH-10
    digest BLOB NOT NULL,                      -- SHA-256 of the message
    received_at REAL NOT NULL,                 -- seconds since the epoch
    acknowledgement BLOB NOT NULL,
    PRIMARY KEY (sender, control_id)
) WITHOUT ROWID;
CREATE INDEX message_age ON message (received_at);
"""
_FROM_VERSION_1: Final = f"""
ALTER TABLE entry ADD COLUMN changed_at REAL NOT NULL DEFAULT 0;
CREATE INDEX entry_created ON entry (created_at);
CREATE INDEX entry_finished ON entry (changed_at) WHERE status IN {FINISHED};
"""


class DatabaseUnusable(Exception):
    """The file is of another version, damaged, or cannot be opened; the message says which."""


def open_for_writing(directory: Path) -> sqlite3.Connection:
    """The database, made if it is missing; only its owner can read it. Transactions are begun by the caller.

    Raises:
        DatabaseUnusable: with the reason.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            directory / FILE, timeout=WRITE_PATIENCE, isolation_level=None, check_same_thread=False
        )
        _check_version(connection, may_be_older=True)  # before anything is changed
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _set_up(connection)
    except OSError as error:
        raise DatabaseUnusable(f"{directory}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise DatabaseUnusable(f"{directory / FILE}: {error}") from error
    sync_folder(directory)
    return connection


def open_for_reading(directory: Path) -> sqlite3.Connection:
    """The database as a reader; nothing is made.

    Raises:
        DatabaseUnusable: it does not exist yet, or cannot be read.
    """
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(directory / FILE))}?mode=ro",
            uri=True,
            timeout=WRITE_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA cache_size = -{READ_CACHE}")
        _check_version(connection)
    except sqlite3.Error as error:
        raise DatabaseUnusable(f"{directory / FILE}: {error}") from error
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring an older version's up to date, unless another process has; both may try at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < VERSION:
            for statement in (_FROM_VERSION_1 if version else _SCHEMA).split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    _check_version(connection)


def _check_version(connection: sqlite3.Connection, *, may_be_older: bool = False) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise DatabaseUnusable(
            f"{FILE} is of a later Isen (version {version} of its tables; this one knows {VERSION}): run that version, "
            "or name another ManagedDirectory"
        )
    if version < VERSION and not may_be_older:
        raise DatabaseUnusable(f"{FILE} has version {version} of its tables, this Isen knows version {VERSION}")
