"""The state machine and the attributes of performed procedure steps (PS3.4 F.7.2)."""

from __future__ import annotations

import io
import math

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.settings import DicomSettings
from scp.performed_procedure.rules import NoLongerUpdated, created, scheduled_steps, updated
from scp.statuses import (
    INVALID_ATTRIBUTE_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    Refusal,
)
from scp.upper_layer.identifier import decode_identifier, encode_identifier
from scp.upper_layer.limits import Limits
from tests.fakes.performed_steps import STUDY, creation, ending

TYPE_1 = [
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
    "ScheduledStepAttributesSequence",
]


def received(dataset: Dataset) -> Dataset:
    """As it comes from the wire."""
    encoded = encode_identifier(dataset, ExplicitVRLittleEndian)
    return decode_identifier(io.BytesIO(encoded), ExplicitVRLittleEndian, Limits.of(DicomSettings()))


def status_of(refused: pytest.ExceptionInfo[Refusal]) -> int:
    return refused.value.status


def test_f_7_2_1_a_step_begins_in_progress() -> None:
    step = created(received(creation()))
    assert step.PerformedProcedureStepStatus == "IN PROGRESS"
    assert step.PatientName == "Müller^Jörg"
    assert step.SpecificCharacterSet == "ISO_IR 192"
    assert scheduled_steps(step) == [(STUDY, "SPS1", "A1")]


@pytest.mark.parametrize("keyword", TYPE_1)
def test_table_f_7_2_1_attributes_of_type_1_in_n_create(keyword: str) -> None:
    with pytest.raises(Refusal, match=keyword) as refused:
        created(received(creation(**{keyword: None})))
    assert status_of(refused) == MISSING_ATTRIBUTE
    empty: object = [] if keyword.endswith("Sequence") else ""
    with pytest.raises(Refusal, match=keyword) as refused:
        created(received(creation(**{keyword: empty})))
    assert status_of(refused) == MISSING_ATTRIBUTE_VALUE


def test_table_f_7_2_1_the_study_of_every_scheduled_step() -> None:
    dataset = creation()
    del dataset.ScheduledStepAttributesSequence[0].StudyInstanceUID
    with pytest.raises(Refusal, match="StudyInstanceUID") as refused:
        created(received(dataset))
    assert status_of(refused) == MISSING_ATTRIBUTE


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "STARTED"])
def test_f_7_2_1_2_another_status_cannot_be_created(status: str) -> None:
    with pytest.raises(Refusal) as refused:
        created(received(creation(PerformedProcedureStepStatus=status)))
    assert status_of(refused) == INVALID_ATTRIBUTE_VALUE


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_f_7_2_2_a_step_ends_once(status: str) -> None:
    step, complete = updated(created(received(creation())), received(ending(status)))
    assert complete
    assert step.PerformedProcedureStepStatus == status
    assert step.PerformedSeriesSequence[0].ProtocolName == "Schädel"
    assert step.PatientName == "Müller^Jörg"  # its character set was another one
    with pytest.raises(NoLongerUpdated) as refused:
        updated(step, received(ending()))
    assert (refused.value.status, refused.value.error_id) == (PROCESSING_FAILURE, 0xA710)
    assert refused.value.comment == "Performed Procedure Step Object may no longer be updated"


def test_f_7_2_2_3_attributes_are_replaced_one_by_one_and_sequences_as_a_whole() -> None:
    step = created(received(creation()))
    first = Dataset()
    first.SeriesInstanceUID = "1.2.3"
    step, _ = updated(step, received(changes(PerformedSeriesSequence=[first])))
    step, _ = updated(step, received(changes(PerformedProcedureStepDescription="Head")))
    assert [item.SeriesInstanceUID for item in step.PerformedSeriesSequence] == ["1.2.3"]
    step, _ = updated(step, received(ending()))
    assert len(step.PerformedSeriesSequence) == 1
    assert step.PerformedSeriesSequence[0].ProtocolName == "Schädel"
    assert step.PerformedProcedureStepDescription == "Head"


def changes(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def test_table_f_7_2_1_patient_and_schedule_are_not_changed_by_n_set() -> None:
    before = created(received(creation()))
    step, complete = updated(before, received(changes(PatientID="P2", PerformedProcedureStepDescription="Head")))
    assert not complete
    assert step.PatientID == "P1"
    assert step.PerformedProcedureStepDescription == "Head"
    assert "PerformedProcedureStepDescription" not in before


@pytest.mark.parametrize(
    "keyword", ["PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence"]
)
def test_table_f_7_2_1_what_the_final_state_needs(keyword: str) -> None:
    empty: object = [] if keyword.endswith("Sequence") else ""
    step = created(received(creation()))
    with pytest.raises(Refusal, match=keyword) as refused:
        updated(step, received(ending(**{keyword: empty})))
    assert status_of(refused) == MISSING_ATTRIBUTE_VALUE
    assert step.PerformedProcedureStepStatus == "IN PROGRESS"


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "ProtocolName"])
def test_table_f_7_2_1_what_every_performed_series_needs(keyword: str) -> None:
    dataset = ending()
    del dataset.PerformedSeriesSequence[0][keyword]
    with pytest.raises(Refusal, match=keyword):
        updated(created(received(creation())), received(dataset))


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        updated(created(received(creation())), received(changes(PerformedProcedureStepStatus="DONE")))
    assert status_of(refused) == INVALID_ATTRIBUTE_VALUE


def test_the_number_of_scheduled_steps_is_bounded() -> None:
    """The worklist is told of each while all other modalities wait."""
    attributes = creation()
    (scheduled,) = attributes.ScheduledStepAttributesSequence
    attributes.ScheduledStepAttributesSequence = [scheduled] * 100
    created(attributes)
    attributes.ScheduledStepAttributesSequence = [scheduled] * 101
    with pytest.raises(Refusal) as refused:
        created(attributes)
    assert status_of(refused) == RESOURCE_LIMITATION


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_has_not_are_refused(number: float) -> None:
    """One of them made the list of all steps, `/isen/mpps`, something that is no JSON."""
    attributes = creation()
    attributes.AcquisitionDuration = number
    with pytest.raises(Refusal) as refused:
        created(attributes)
    assert status_of(refused) == INVALID_ATTRIBUTE_VALUE


def test_values_that_cannot_be_decoded_are_refused() -> None:
    no_number = b"\x20\x00\x13\x00IS\x04\x00abcd"  # InstanceNumber
    dataset = decode_identifier(io.BytesIO(no_number), ExplicitVRLittleEndian, Limits.of(DicomSettings()))
    with pytest.raises(Refusal) as refused:
        created(dataset)
    assert status_of(refused) == INVALID_ATTRIBUTE_VALUE


def test_an_unscheduled_step_has_nothing_to_do_with_the_worklist() -> None:
    dataset = creation()
    dataset.ScheduledStepAttributesSequence[0].ScheduledProcedureStepID = ""
    assert scheduled_steps(created(received(dataset))) == []
