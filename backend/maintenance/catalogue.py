"""What the index held, put aside on disk in the order of the bucket's listing, and what was found to be wrong.

An archive has more attachments than fit into memory. The file is in the folder for temporary files (TMPDIR), about
200 bytes for each attachment, and has no name: whatever ends this process, nothing is left behind.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Final

from backend.maintenance.findings import Action, Deed, Finding, Kind
from backend.maintenance.index import IndexedAttachment
from backend.transfer.object_store.protocols import ListedObject

_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
CREATE TABLE attachments (name TEXT PRIMARY KEY, size, md5, level, resource, attachment) WITHOUT ROWID;
CREATE TABLE doubts (name PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE suspects (key, size, etag, modified);
CREATE TABLE findings (number INTEGER PRIMARY KEY, kind, name, key, found, path, size, md5, upload_id);
CREATE INDEX findings_by_name ON findings (name);
CREATE TABLE actions (finding INTEGER PRIMARY KEY, deed, reason, outcome);
"""
_ATTACHMENT: Final = "INSERT OR REPLACE INTO attachments VALUES (?, ?, ?, ?, ?, ?)"
_FINDING: Final = "INSERT INTO findings VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"


class Catalogue:
    """For one thread."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="isen-") as folder:
            self._database = sqlite3.connect(Path(folder) / "catalogue")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def add(self, attachments: Iterable[IndexedAttachment]) -> None:
        """Put attachments aside; one that is there already is replaced."""
        self._database.executemany(_ATTACHMENT, map(astuple, attachments))

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM attachments").fetchone()
        return int(count)

    def attachments(self) -> Iterator[IndexedAttachment]:
        """All of them, by name."""
        for row in self._database.execute("SELECT * FROM attachments ORDER BY name"):
            yield IndexedAttachment(*row)

    def sample(self, count: int) -> set[str]:
        """Names of attachments drawn at random."""
        rows = self._database.execute("SELECT name FROM attachments ORDER BY random() LIMIT ?", (count,))
        return {name for (name,) in rows}

    def doubt(self, attachment: IndexedAttachment) -> None:
        """Put an attachment aside that seems to have no object."""
        self._database.execute("INSERT OR REPLACE INTO doubts VALUES (?)", (attachment.name,))

    def doubts(self) -> Iterator[IndexedAttachment]:
        """The attachments put aside."""
        for row in self._database.execute("SELECT attachments.* FROM doubts JOIN attachments USING (name)"):
            yield IndexedAttachment(*row)

    def suspect(self, listed: ListedObject) -> None:
        """Put an object aside that no attachment of the index refers to."""
        fields = (listed.key, listed.size, listed.etag, listed.modified)
        self._database.execute("INSERT INTO suspects VALUES (?, ?, ?, ?)", fields)

    def suspects(self) -> Iterator[ListedObject]:
        """The objects put aside."""
        for row in self._database.execute("SELECT * FROM suspects"):
            yield ListedObject(*row)

    def found(self, finding: Finding) -> None:
        """Keep a finding."""
        self._database.execute(_FINDING, astuple(finding))

    def findings(self, *kinds: Kind) -> Iterator[Finding]:
        """The findings of these kinds, or all, in the order they were made."""
        wanted = kinds or tuple(Kind)
        question = f"SELECT * FROM findings WHERE kind IN ({','.join('?' * len(wanted))}) ORDER BY number"  # noqa: S608 - question marks only
        for _, kind, *rest in self._database.execute(question, wanted):
            yield Finding(Kind(kind), *rest)

    def plan(self, action: Action) -> None:
        """Keep an action, or its outcome in place of what was planned for the same finding."""
        finding = action.finding
        self._database.execute(
            "INSERT OR REPLACE INTO actions "
            "SELECT number, ?, ?, ? FROM findings WHERE kind = ? AND name = ? AND upload_id = ?",
            (action.deed, action.reason, action.outcome, finding.kind, finding.name, finding.upload_id),
        )

    def actions(self, *deeds: Deed) -> Iterator[Action]:
        """The actions of these deeds, or all, in the order of their findings."""
        wanted = deeds or tuple(Deed)
        question = (
            "SELECT findings.*, deed, reason, outcome FROM actions JOIN findings ON finding = number "  # noqa: S608
            f"WHERE deed IN ({','.join('?' * len(wanted))}) ORDER BY number"  # - question marks only
        )
        for _, kind, *rest, deed, reason, outcome in self._database.execute(question, wanted):
            yield Action(Finding(Kind(kind), *rest), Deed(deed), reason, outcome)

    def count(self, kind: Kind) -> int:
        """How many findings of this kind there are."""
        (count,) = self._database.execute("SELECT count(*) FROM findings WHERE kind = ?", (kind,)).fetchone()
        return int(count)
