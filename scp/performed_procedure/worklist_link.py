"""Tells the worklists what has become of scheduled steps; they hide those that were started or ended.

A step is known by Study Instance UID and Scheduled Procedure Step ID together, and looked for among the patient's, or
else among those of the Accession Number.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from scp.performed_procedure.reported import ReportedSteps
from scp.performed_procedure.rules import IN_PROGRESS, scheduled_steps
from scp.statuses import Refusal
from scp.worklists.database import DatabaseUnusable
from scp.worklists.entry import Unusable, make_entry, read_data_set
from scp.worklists.store import StoreUnavailable, Transaction, WorklistStore

log = logging.getLogger(__name__)

_STARTED: Final = "STARTED"  # Scheduled Procedure Step Status, PS3.3 C.4.10


class WorklistLink:
    """Thread-safe. A worklist that cannot be written does not keep a modality from reporting."""

    def __init__(self, directory: Path | None, station: str, reported: ReportedSteps | None = None) -> None:
        """`directory` is the worklist's ManagedDirectory, None if there is none; `station` its default station.

        `reported` is for the entries that are not in it, None if there are none.
        """
        self._reported = reported
        self._directory = directory
        self._station = station
        self._store: WorklistStore | None = None

    def tell(self, step: Dataset) -> None:
        """Pass on the status of a performed step that has just been kept. Never raises."""
        if self._reported:
            try:
                self._reported.add((study, step_id) for study, step_id, _ in scheduled_steps(step))
            except OSError as error:
                log.warning("worklist_not_told exception=%s", type(error).__name__)
        if self._directory is None:
            return
        performed = step.PerformedProcedureStepStatus
        status = _STARTED if performed == IN_PROGRESS else performed
        try:
            self._store = self._store or WorklistStore(self._directory)
            with self._store.transaction() as changes:
                for study, step_id, accession in scheduled_steps(step):
                    self._set(changes, (study, step_id), status, str(step.get("PatientID") or ""), accession)
        except (DatabaseUnusable, StoreUnavailable, Unusable, Refusal) as error:
            log.warning("worklist_not_told status=%r exception=%s", status, type(error).__name__)

    def _set(self, changes: Transaction, wanted: tuple[str, str], status: str, patient: str, accession: str) -> None:
        for stored in changes.of_patient(patient, accession):
            dataset = read_data_set(stored.data_set)
            (scheduled,) = dataset.ScheduledProcedureStepSequence
            found = (str(dataset.get("StudyInstanceUID") or ""), str(scheduled.ScheduledProcedureStepID))
            if found == wanted:
                scheduled.ScheduledProcedureStepStatus = status
                entry, _ = make_entry(dataset, self._station, make_study=False)
                changes.put(entry, stored.id)
