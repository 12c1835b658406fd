"""What becomes of worklist entries by themselves: they age, and their studies arrive."""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from config.settings import DicomSettings, WorklistSettings
from scp.durable_folder import DurableFolder
from scp.orthanc_client import OrthancUnreachable
from scp.upper_layer.limits import Limits
from scp.worklist_sources.folder import WorklistFolder
from scp.worklists.database import FILE, VERSION
from scp.worklists.entry import make_entry, read_data_set
from scp.worklists.housekeeping import Housekeeper
from scp.worklists.stable_studies import StableStudies
from scp.worklists.store import WorklistStore
from tests.fakes.worklists import make_worklist_file, worklist_entry

TODAY = date(2024, 3, 2)
UID = "1.2.840.1"


class Orthanc:
    """Its log of changes, and its studies, as the REST API has shown them."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.studies: dict[str, dict[str, Any]] = {}
        self.is_away = False

    def stores(self, name: str, uid: str, patient: str = "PID1", accession: str = "A1", *, stable: bool = True) -> None:
        self.studies[name] = {
            "MainDicomTags": {"0020,000d": uid, "0008,0050": accession},
            "PatientMainDicomTags": {"0010,0020": patient},
            "IsStable": stable,
        }
        for change in ("NewInstance", "StableStudy"):
            self.log.append({"ChangeType": change, "ID": name, "Seq": len(self.log) + 1})

    def changes(self, since: int, limit: int) -> dict[str, Any]:
        if self.is_away:
            raise OrthancUnreachable("away")
        page = [change for change in self.log if change["Seq"] > since][:limit]
        last = page[-1]["Seq"] if page else since
        return {"Changes": page, "Last": last, "Done": last >= self.last_change()}

    def last_change(self) -> int:
        return self.log[-1]["Seq"] if self.log else 0

    def resources(self, _level: str, ids: list[str]) -> list[dict[str, Any]]:
        return [self.studies[name] for name in ids if name in self.studies]


@pytest.fixture
def orthanc() -> Orthanc:
    return Orthanc()


@pytest.fixture
def store(tmp_path: Path) -> WorklistStore:
    return WorklistStore(tmp_path / "managed")


def put(store: WorklistStore, order_key: str | None = None, **overrides: Any) -> str:
    values = {"StudyInstanceUID": UID, "ScheduledProcedureStepStartDate": "20240302", **overrides}
    with store.transaction() as changes:
        return changes.put(make_entry(worklist_entry(1, **values), "NOBODY")[0], order_key=order_key)


def status_of(store: WorklistStore, entry_id: str) -> str | None:
    stored = store.get(entry_id)
    if stored is None:
        return None
    return str(read_data_set(stored.data_set).ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus)


def housekeeper(tmp_path: Path, orthanc: Orthanc, **parts: Any) -> Housekeeper:
    studies = StableStudies(orthanc, DurableFolder(tmp_path / "state-folder", "state"))  # type: ignore[arg-type]
    made = Housekeeper(
        WorklistSettings(**parts.pop("settings", {})),
        parts.get("store"),
        parts.get("folder"),
        studies,
        today=lambda: TODAY,
    )
    made.run_once()  # notes where the log of changes is now
    return made


class TestStableStudies:
    """DeleteWorklistsOnStableStudy."""

    def test_the_entry_of_a_study_that_has_arrived_is_removed(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        keeper = housekeeper(tmp_path, orthanc, store=store)
        its, another = put(store), put(store, StudyInstanceUID="1.2.840.2")
        orthanc.stores("study", UID)
        keeper.run_once()
        assert store.get(its) is None
        assert store.get(another)

    def test_it_is_found_by_its_accession_number_when_the_patient_id_was_typed_in_another_way(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        keeper = housekeeper(tmp_path, orthanc, store=store)
        its = put(store)
        orthanc.stores("study", UID, patient="pid-1")
        keeper.run_once()
        assert store.get(its) is None

    def test_a_step_of_another_day_of_the_same_study_stays(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        keeper = housekeeper(tmp_path, orthanc, store=store)
        tomorrow = put(store, ScheduledProcedureStepStartDate="20240303")
        orthanc.stores("study", UID)
        keeper.run_once()
        assert store.get(tomorrow)

    def test_the_entry_of_an_order_becomes_completed_so_that_a_late_change_does_not_schedule_it_again(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        keeper = housekeeper(tmp_path, orthanc, store=store)
        order = put(store, order_key="placer 1")
        cancelled = put(store, order_key="placer 2", ScheduledProcedureStepStatus="CANCELED")
        orthanc.stores("study", UID)
        keeper.run_once()
        assert status_of(store, order) == "COMPLETED"
        assert status_of(store, cancelled) == "CANCELED"

    def test_a_study_that_still_grows_is_left_until_it_is_stable_again(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        keeper = housekeeper(tmp_path, orthanc, store=store)
        its = put(store)
        orthanc.stores("study", UID, stable=False)
        keeper.run_once()
        assert store.get(its)
        orthanc.stores("study", UID)
        keeper.run_once()
        assert store.get(its) is None

    def test_what_became_stable_while_nobody_looked_is_found_later(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        keeper = housekeeper(tmp_path, orthanc, store=store)
        its = put(store)
        orthanc.is_away = True
        orthanc.stores("study", UID)
        for number in range(3000):
            orthanc.stores(f"other {number}", f"1.3.{number}", "X", "Y")
        keeper.run_once()
        assert store.get(its)
        orthanc.is_away = False
        housekeeper(tmp_path, orthanc, store=store)  # a new process: its first look is not the first of all
        assert store.get(its) is None

    def test_an_index_that_begins_anew_is_followed(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        for number in range(10):
            orthanc.stores(f"other {number}", f"1.3.{number}", "X", "Y")
        keeper = housekeeper(tmp_path, orthanc, store=store)
        orthanc.log.clear()
        its = put(store)
        keeper.run_once()
        orthanc.stores("study", UID)
        keeper.run_once()
        assert store.get(its) is None

    def test_files_are_deleted_when_all_their_steps_are_done(self, tmp_path: Path, orthanc: Orthanc) -> None:
        directory = tmp_path / "wl"
        directory.mkdir()
        today: dict[str, Any] = {"ScheduledProcedureStepStartDate": "20240302"}
        make_worklist_file(directory / "done.wl", StudyInstanceUID=UID, **today)
        make_worklist_file(directory / "other.wl", StudyInstanceUID="1.2.840.2", **today)
        make_worklist_file(directory / "later.wl", StudyInstanceUID=UID, ScheduledProcedureStepStartDate="20240303")
        (directory / "unusable.wl").write_bytes(b"no DICOM")
        folder = WorklistFolder(directory, Limits.of(DicomSettings()), lambda: "latin_1")
        keeper = housekeeper(tmp_path, orthanc, folder=folder)
        orthanc.stores("study", UID)
        keeper.run_once()
        assert sorted(path.name for path in directory.iterdir()) == ["later.wl", "other.wl", "unusable.wl"]


class TestAge:
    def test_retention_days_count_from_the_start_date(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore
    ) -> None:
        old = put(store, ScheduledProcedureStepStartDate="20240228")
        recent = put(store, ScheduledProcedureStepStartDate="20240229")
        housekeeper(tmp_path, orthanc, store=store, settings={"retention_days": 2})
        assert (store.get(old), bool(store.get(recent))) == (None, True)

    def test_delete_worklists_delay_counts_hours_from_the_creation(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        with monkeypatch.context() as earlier:
            earlier.setattr(time, "time", lambda: now - 25 * 3600)
            old = put(store)
        recent = put(store)
        housekeeper(tmp_path, orthanc, store=store, settings={"delete_worklists_delay": 24})
        assert (store.get(old), bool(store.get(recent))) == (None, True)

    @pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "CANCELED"])
    def test_what_is_over_goes_after_finished_retention_hours(
        self, tmp_path: Path, orthanc: Orthanc, store: WorklistStore, monkeypatch: pytest.MonkeyPatch, status: str
    ) -> None:
        now = time.time()
        with monkeypatch.context() as earlier:
            earlier.setattr(time, "time", lambda: now - 3 * 3600)
            over = put(store, ScheduledProcedureStepStatus=status)
            started = put(store, ScheduledProcedureStepStatus="STARTED")
        just_over = put(store, ScheduledProcedureStepStatus=status)
        housekeeper(tmp_path, orthanc, store=store, settings={"finished_retention_hours": 2})
        assert store.get(over) is None
        assert store.get(started)
        assert store.get(just_over)
        housekeeper(tmp_path, orthanc, store=store, settings={"finished_retention_hours": 0})
        assert store.get(just_over)


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    store = WorklistStore(tmp_path)
    made = put(store)
    raw = sqlite3.connect(tmp_path / FILE)
    raw.executescript(
        "DROP INDEX entry_finished; DROP INDEX entry_created; ALTER TABLE entry DROP COLUMN changed_at;"
        "PRAGMA user_version = 1;"
    )
    raw.close()
    again = WorklistStore(tmp_path)
    assert again.get(made)
    put(again)
    with sqlite3.connect(tmp_path / FILE) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert os.stat(tmp_path / FILE).st_mode & 0o077 == 0
