"""What may become an entry of the managed worklist (PS3.4 Table K.6-1, return types 1 and 2)."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, tag_of
from scp.worklists.entry import Unusable, candidate_of, make_entry, read_data_set
from scp.worklists.tags import data_set_of
from tests.fakes.worklists import worklist_entry

MINIMUM = {
    "PatientName": "Muster^Anna",
    "PatientID": "P1",
    "ScheduledProcedureStepSequence": [{"Modality": "CT", "ScheduledProcedureStepStartDate": "20240229"}],
}
STATION = "NOBODY"


def test_a_complete_entry_is_kept_as_it_is() -> None:
    given = worklist_entry(1)
    entry, repaired = make_entry(given, STATION)
    assert repaired == []
    (step,) = given.ScheduledProcedureStepSequence
    assert entry.modality == step.Modality
    assert entry.stations == f"\\{step.ScheduledStationAETitle}\\"
    assert entry.patient_id == given.PatientID
    assert entry.accession_number == given.AccessionNumber
    assert entry.status == "SCHEDULED"
    assert date.fromordinal(entry.day) == datetime.strptime(step.ScheduledProcedureStepStartDate, "%Y%m%d").date()  # noqa: DTZ007 - a date alone


def test_without_set_study_instance_uid_if_missing_none_is_made() -> None:
    """It is then absent from answers: type 1 may not be empty, but is optional (PS3.4 Table K.6-1)."""
    entry, repaired = make_entry(data_set_of(MINIMUM), STATION, make_study=False)
    assert "StudyInstanceUID" not in repaired
    assert "StudyInstanceUID" not in read_data_set(entry.data_set)


def test_type_1_attributes_that_can_be_made_are_made() -> None:
    entry, repaired = make_entry(data_set_of(MINIMUM), STATION)
    assert repaired == [
        "StudyInstanceUID",
        "RequestedProcedureID",
        "ScheduledProcedureStepStartTime",
        "ScheduledStationAETitle",
        "ScheduledProcedureStepID",
    ]
    candidate = candidate_of(entry.data_set)
    (step,) = candidate.attributes[SCHEDULED_PROCEDURE_STEP_SEQUENCE].values
    assert step.attributes[tag_of("ScheduledStationAETitle")].values == (STATION,)
    assert step.attributes[tag_of("ScheduledProcedureStepStartTime")].values == ("000000",)
    assert len(step.attributes[tag_of("ScheduledProcedureStepID")].values[0]) <= 16  # VR SH
    assert candidate.attributes[tag_of("StudyInstanceUID")].values[0].startswith("2.25.")


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID"])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_who_the_patient_is_is_never_made_up(keyword: str, force: bool, value: str | None) -> None:
    with pytest.raises(Unusable, match=keyword):
        make_entry(data_set_of({**MINIMUM, keyword: value}), STATION, force=force)


@pytest.mark.parametrize("keyword", ["Modality", "ScheduledProcedureStepStartDate"])
def test_what_is_done_and_when_is_made_up_only_by_force(keyword: str) -> None:
    def incomplete() -> dict[str, object]:
        return {**MINIMUM, "ScheduledProcedureStepSequence": [{**step, keyword: None}]}

    step = MINIMUM["ScheduledProcedureStepSequence"][0]
    assert isinstance(step, dict)
    with pytest.raises(Unusable, match=keyword):
        make_entry(data_set_of(incomplete()), STATION)
    assert keyword in make_entry(data_set_of(incomplete()), STATION, force=True)[1]


@pytest.mark.parametrize("count", [0, 2])
def test_k6121_one_step_for_each_entry(count: int) -> None:
    steps = [{"Modality": "CT", "ScheduledProcedureStepStartDate": "20240229"}] * count
    with pytest.raises(Unusable, match="exactly one item"):
        make_entry(data_set_of({**MINIMUM, "ScheduledProcedureStepSequence": steps}), STATION, force=True)


def test_what_the_index_takes_as_one_value_has_one() -> None:
    with pytest.raises(Unusable, match="AccessionNumber has several values"):
        make_entry(data_set_of({**MINIMUM, "AccessionNumber": "A\\B"}), STATION)


def test_an_entry_that_is_too_large_is_refused() -> None:
    with pytest.raises(Unusable, match="larger"):
        make_entry(data_set_of({**MINIMUM, "RequestedProcedureComments": ["x" * 10000] * 200}), STATION)
