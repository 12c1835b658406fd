"""The entries of a source that no modality has begun yet, as far as performed procedure steps tell.

As with the managed worklist, a query with a key for ScheduledProcedureStepStatus is answered with all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scp.matching import Candidate
from scp.performed_procedure.reported import ReportedSteps
from scp.worklist_sources.protocol import SourceUnavailable, WorklistSource
from scp.worklist_sources.selection import EVERYTHING, Selection
from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, tag_of

_STUDY_INSTANCE_UID: Final = tag_of("StudyInstanceUID")
_STEP_ID: Final = tag_of("ScheduledProcedureStepID")


class WithoutReported:
    """Thread-safe."""

    def __init__(self, source: WorklistSource, reported: ReportedSteps) -> None:
        self._source = source
        self._reported = reported

    def entries(self, selection: Selection = EVERYTHING) -> Iterator[Candidate]:
        """See `WorklistSource.entries`."""
        entries = self._source.entries(selection)
        if selection.asks_status:
            return iter(entries)
        try:
            self._reported.refresh()
        except OSError as error:
            raise SourceUnavailable(f"the performed procedure steps cannot be read: {error.strerror}") from error
        return (entry for entry in entries if not self._is_reported(entry))

    def _is_reported(self, entry: Candidate) -> bool:
        (step,) = entry.attributes[SCHEDULED_PROCEDURE_STEP_SEQUENCE].values
        study, step_id = _value(entry, _STUDY_INSTANCE_UID), _value(step, _STEP_ID)
        return bool(study and step_id) and self._reported.has(study, step_id)


def _value(candidate: Candidate, tag: int) -> str:
    attribute = candidate.attributes.get(tag)
    return str(attribute.values[0]) if attribute and attribute.values else ""
