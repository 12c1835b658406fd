"""An index of Orthanc, 1.10 to 1.13, with as many studies as a test wants, made in seconds: rows are copied in SQLite.

Every study has a patient, a series and an instance of its own. Attachments have no files: they can be found, not read.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

UID_TAGS = {(0x0020, 0x000D), (0x0020, 0x000E), (0x0008, 0x0018)}
PATIENT_ID = (0x0010, 0x0020)
LEVELS = 4


def crowd(index: Path, studies: int) -> None:
    """Copy the only patient in the file `index` until there are `studies`; Orthanc must not run."""
    with closing(sqlite3.connect(index)) as database, database:
        resources = database.execute("SELECT internalId, resourceType, parentId FROM Resources").fetchall()
        if len(resources) != LEVELS:
            raise ValueError("the index must hold one instance")
        database.executemany(
            "INSERT INTO Resources VALUES (?, ?, ?, ?)",
            (
                (_moved(id_, n), kind, _public_id(n, kind), _moved(parent, n))
                for n in range(1, studies)
                for id_, kind, parent in resources
            ),
        )
        for table in ("MainDicomTags", "DicomIdentifiers"):
            rows = database.execute(f"SELECT id, tagGroup, tagElement, value FROM {table}").fetchall()  # noqa: S608
            database.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", _tags(rows, studies))  # noqa: S608
        metadata = database.execute("SELECT * FROM Metadata").fetchall()  # newer ones have a revision at the end
        marks = ", ".join("?" * len(metadata[0]))
        database.executemany(
            f"INSERT INTO Metadata VALUES ({marks})",  # noqa: S608
            ((_moved(id_, n), *values) for n in range(1, studies) for id_, *values in metadata),
        )


def _tags(rows: list[tuple[int, int, int, str]], studies: int) -> Iterator[tuple[Any, ...]]:
    for n in range(1, studies):
        for id_, group, element, value in rows:
            if (group, element) in UID_TAGS:
                value = f"{value}.{n}"  # noqa: PLW2901 - another of its kind
            elif (group, element) == PATIENT_ID:
                value = f"{value}-{n}"  # noqa: PLW2901 - another of its kind
            yield _moved(id_, n), group, element, value


def _moved(id_: int | None, n: int) -> int | None:
    return None if id_ is None else id_ + LEVELS * n


def _public_id(n: int, kind: int) -> str:
    digits = hashlib.sha1(f"{n}|{kind}".encode(), usedforsecurity=False).hexdigest()
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))
