"""Entries of a folder are hidden once a modality has reported their step (PS3.4 F.7, Annex K)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from config.settings import DicomSettings
from scp.performed_procedure.reported import ReportedSteps
from scp.performed_procedure.rules import created
from scp.performed_procedure.worklist_link import WorklistLink
from scp.upper_layer.limits import Limits
from scp.worklist_sources.folder import WorklistFolder
from scp.worklist_sources.selection import Selection
from scp.worklist_sources.without_reported import WithoutReported
from tests.fakes.performed_steps import STUDY, creation
from tests.fakes.worklists import make_worklist_file

PATIENT_ID = 0x00100020


@pytest.fixture
def reported(tmp_path: Path) -> ReportedSteps:
    return ReportedSteps(tmp_path / "mpps")


@pytest.fixture
def source(tmp_path: Path, reported: ReportedSteps) -> WithoutReported:
    folder = tmp_path / "wl"
    folder.mkdir()
    make_worklist_file(folder / "1.wl", PatientID="ITS", StudyInstanceUID=STUDY, ScheduledProcedureStepID="SPS1")
    make_worklist_file(folder / "2.wl", PatientID="STEP", StudyInstanceUID=STUDY, ScheduledProcedureStepID="SPS2")
    make_worklist_file(folder / "3.wl", PatientID="STUDY", StudyInstanceUID="1.2", ScheduledProcedureStepID="SPS1")
    make_worklist_file(folder / "4.wl", PatientID="NONE", StudyInstanceUID=STUDY, ScheduledProcedureStepID="")
    return WithoutReported(WorklistFolder(folder, Limits.of(DicomSettings()), lambda: "latin_1"), reported)


def patients(source: WithoutReported, *, asks_status: bool = False) -> list[str]:
    found = source.entries(Selection(asks_status=asks_status))
    return [str(entry.attributes[PATIENT_ID].values[0]) for entry in found]


def test_a_step_is_known_by_study_and_step_id_together(source: WithoutReported, reported: ReportedSteps) -> None:
    assert patients(source) == ["ITS", "STEP", "STUDY", "NONE"]
    WorklistLink(None, "NOBODY", reported).tell(created(creation()))
    assert patients(source) == ["STEP", "STUDY", "NONE"]


def test_a_query_with_a_key_for_the_status_finds_all(source: WithoutReported, reported: ReportedSteps) -> None:
    reported.add([(STUDY, "SPS1")])
    assert patients(source, asks_status=True) == ["ITS", "STEP", "STUDY", "NONE"]


def test_what_another_worker_was_told_counts_from_the_next_query_on(source: WithoutReported, tmp_path: Path) -> None:
    assert "ITS" in patients(source)
    for number in range(20):  # also within one tick of the kernel's clock
        ReportedSteps(tmp_path / "mpps").add([(STUDY, f"OTHER{number}")])
        assert "ITS" in patients(source)
    ReportedSteps(tmp_path / "mpps").add([(STUDY, "SPS1")])
    assert "ITS" not in patients(source)


def test_it_is_forgotten_with_the_performed_step(
    source: WithoutReported, reported: ReportedSteps, tmp_path: Path
) -> None:
    reported.add([(STUDY, "SPS1")])
    (path,) = (tmp_path / "mpps" / "reported").iterdir()
    assert STUDY not in path.name
    os.utime(path, (time.time() - 100,) * 2)
    reported.forget_before(time.time() - 50)
    assert "ITS" in patients(source)
