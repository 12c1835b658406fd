"""The managed worklist as a source of worklist queries: read by each worker from the file that all of them share.

Only entries that a query may want are looked at: the index knows days, stations, modalities, patients and accession
numbers. Memory is bounded whatever the list holds; what was decoded lately is kept. A change counts from the next query
on. Steps that have been started, finished or cancelled are answered only to queries with a key for
ScheduledProcedureStepStatus, as dcm4chee does: a modality shows what is still to be done.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from scp.matching import Candidate
from scp.matching.candidate import Undecodable
from scp.statuses import Refusal
from scp.worklist_sources.entry import IncompleteEntry
from scp.worklist_sources.protocol import SourceUnavailable
from scp.worklist_sources.selection import EVERYTHING, FIRST_DAY, LAST_DAY, Selection
from scp.worklists.database import DatabaseUnusable, open_for_reading
from scp.worklists.entry import candidate_of

log = logging.getLogger(__name__)

HIDDEN: Final = ("STARTED", "DEPARTED", "CANCELED", "DISCONTINUED", "COMPLETED")
KEPT: Final = 5000  # decoded entries; some 10 KB each
CHUNK: Final = 200  # data sets read at a time

_VERSIONS: Final = "SELECT number, revision FROM entry WHERE {} ORDER BY number"
_DATA_SETS: Final = "SELECT number, revision, data_set FROM entry WHERE number IN ({})"

Version = tuple[int, int]  # number and revision


class ManagedWorklist:
    """The entries below `ManagedDirectory`. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._decoded: OrderedDict[Version, Candidate] = OrderedDict()

    def entries(self, selection: Selection = EVERYTHING) -> Iterator[Candidate]:
        """See `WorklistSource.entries`: in the order of their creation."""
        versions = self._query(*_statement(selection))
        return self._candidates([(number, revision) for number, revision in versions])

    def _candidates(self, versions: Sequence[Version]) -> Iterator[Candidate]:
        for start in range(0, len(versions), CHUNK):
            chunk = versions[start : start + CHUNK]
            with self._lock:
                known = {version: self._decoded[version] for version in chunk if version in self._decoded}
                for version in known:
                    self._decoded.move_to_end(version)
            known.update(self._decode([version for version in chunk if version not in known]))
            yield from (known[version] for version in chunk if version in known)

    def _decode(self, versions: list[Version]) -> dict[Version, Candidate]:
        """An entry that was removed meanwhile is left out; one that was changed is answered as it is now."""
        if not versions:
            return {}
        asked = dict(versions)
        decoded = {}
        for number, revision, data_set in self._query(_DATA_SETS.format(",".join("?" * len(asked))), list(asked)):
            try:
                candidate = candidate_of(data_set)
            except (Refusal, Undecodable, IncompleteEntry) as error:
                log.error("worklist_entry_damaged number=%d reason=%r", number, str(error))  # noqa: TRY400 - one line
                continue
            decoded[number, asked[number]] = candidate
            with self._lock:
                self._decoded[number, revision] = candidate
                while len(self._decoded) > KEPT:
                    self._decoded.popitem(last=False)
        return decoded

    def _query(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = open_for_reading(self._directory)
                return self._connection.execute(statement, values).fetchall()
        except (DatabaseUnusable, sqlite3.Error) as error:
            raise SourceUnavailable(f"the managed worklist cannot be read: {type(error).__name__}") from error


def _statement(selection: Selection) -> tuple[str, list[str | int]]:
    tests: list[tuple[str, str | int]] = [("1 = ?", 1)]
    if (selection.first_day, selection.last_day) != (FIRST_DAY, LAST_DAY):
        tests += [("day >= ?", selection.first_day), ("day <= ?", selection.last_day)]
    columns = ("modality", "patient_id", "accession_number")
    tests += [(f"{column} = ?", value) for column in columns if (value := getattr(selection, column))]
    if selection.station:
        tests.append(("instr(stations, ?)", f"\\{selection.station}\\"))
    tests += [("instr(patient_name, ?)", part) for part in selection.name_parts]
    if not selection.asks_status:
        tests += [("status != ?", status) for status in HIDDEN]
    conditions = " AND ".join(test for test, _ in tests)
    return _VERSIONS.format(conditions), [value for _, value in tests]
