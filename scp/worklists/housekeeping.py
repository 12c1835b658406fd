"""What becomes of worklist entries by themselves: they age, and their studies arrive.

An entry whose study is stable in Orthanc is removed (`DeleteWorklistsOnStableStudy`), unless its start date is still to
come: another step of the same study. One that an HL7 order has made becomes COMPLETED instead, so that a late change of
the order does not schedule again what was done; it goes `FinishedRetentionHours` later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import date

from config.settings import WorklistSettings
from scp.matching import Candidate
from scp.matching.temporal import DAY, parse_date
from scp.orthanc_client import OrthancError
from scp.statuses import Refusal
from scp.worklist_sources.folder import WorklistFolder
from scp.worklist_sources.protocol import SourceUnavailable
from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, tag_of
from scp.worklists.entry import Unusable, make_entry, read_data_set
from scp.worklists.stable_studies import StableStudies, StableStudy
from scp.worklists.store import StoredEntry, StoreUnavailable, Transaction, WorklistStore

log = logging.getLogger(__name__)

_STUDY_INSTANCE_UID = tag_of("StudyInstanceUID")
_START_DATE = tag_of("ScheduledProcedureStepStartDate")


class Housekeeper:
    """One process and one thread only."""

    def __init__(
        self,
        settings: WorklistSettings,
        store: WorklistStore | None,
        folder: WorklistFolder | None,
        stable_studies: StableStudies | None,
        today: Callable[[], date] = date.today,
    ) -> None:
        """Of `store`, `folder` and `stable_studies` there are those that are configured. `today` is the wards' date."""
        self._settings = settings
        self._store = store
        self._folder = folder
        self._stable_studies = stable_studies
        self._today = today

    def run_once(self) -> None:
        """Remove what is due. Never raises for what a later run may do."""
        try:
            if self._store:
                self._remove_old(self._store)
            if self._stable_studies:
                self._stable_studies.look(self._finish)
        except (StoreUnavailable, SourceUnavailable, OrthancError, OSError) as error:
            log.warning("worklist_housekeeping_failed reason=%r", str(error))

    def _remove_old(self, store: WorklistStore) -> None:
        settings, now = self._settings, time.time()
        with store.transaction() as changes:
            removed = 0
            if settings.retention_days:
                removed += changes.remove_before(self._today().toordinal() - settings.retention_days)
            if settings.delete_worklists_delay:
                removed += changes.remove_created_before(now - settings.delete_worklists_delay * 3600)
            if settings.finished_retention_hours:
                removed += changes.remove_finished_before(now - settings.finished_retention_hours * 3600)
        if removed:
            log.info("worklist_entries_expired count=%d", removed)

    def _finish(self, studies: Sequence[StableStudy]) -> None:
        finished = 0
        if self._store:
            with self._store.transaction() as changes:
                finished += sum(self._finish_managed(changes, study) for study in studies)
        if self._folder:
            uids = {study.study_instance_uid for study in studies}
            finished += self._folder.remove(lambda entry: self._is_done(entry, uids))
        if finished:
            log.info("worklist_entries_finished count=%d reason=study_is_stable", finished)

    def _finish_managed(self, changes: Transaction, study: StableStudy) -> int:
        finished = 0
        for stored in changes.of_patient(study.patient_id, study.accession_number):
            try:
                finished += self._finish_entry(changes, stored, study)
            except (Refusal, Unusable):
                log.warning("worklist_entry_damaged id=%s", stored.id)
        return finished

    def _finish_entry(self, changes: Transaction, stored: StoredEntry, study: StableStudy) -> bool:
        dataset = read_data_set(stored.data_set)
        (step,) = dataset.ScheduledProcedureStepSequence
        status = str(step.get("ScheduledProcedureStepStatus") or "")
        is_its = str(dataset.get("StudyInstanceUID") or "") == study.study_instance_uid
        if not is_its or not self._is_due(str(step.ScheduledProcedureStepStartDate)):
            return False
        if stored.order_key is None:
            return changes.remove(stored.id)
        if status not in ("", "SCHEDULED", "ARRIVED", "READY"):
            return False  # it has begun, has ended or was cancelled: others have said so
        step.ScheduledProcedureStepStatus = "COMPLETED"
        entry, _ = make_entry(dataset, "", make_study=False)
        changes.put(entry, stored.id)
        return True

    def _is_done(self, entry: Candidate, study_instance_uids: set[str]) -> bool:
        """The same for an entry of a file."""
        uid = entry.attributes.get(_STUDY_INSTANCE_UID)
        (step,) = entry.attributes[SCHEDULED_PROCEDURE_STEP_SEQUENCE].values
        dates = step.attributes[_START_DATE].values
        return bool(uid and study_instance_uids.intersection(uid.values)) and all(map(self._is_due, dates))

    def _is_due(self, start_date: str) -> bool:
        day = parse_date(start_date)
        return day is not None and day.start // DAY <= self._today().toordinal()
