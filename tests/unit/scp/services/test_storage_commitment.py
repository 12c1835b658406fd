"""N-EVENT-REPORT of PS3.4 J.3.3 as we receive it: what is kept, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from scp.durable_folder import file_name
from scp.services.storage_commitment import CommitmentReportService
from scp.statuses import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_SOP_INSTANCE,
    NOT_AUTHORIZED,
    RESOURCE_LIMITATION,
    SUCCESS,
    Refusal,
)
from scp.storage_commitment import received
from scp.storage_commitment.data_sets import PUSH_MODEL_INSTANCE, STORAGE_COMMITMENT_PUSH_MODEL, event_information
from scp.storage_commitment.received import ReceivedReports
from scp.storage_commitment.transactions import Reference
from tests.fakes.dimse_request import PEER, RecordedRequest

CT = "1.2.840.10008.5.1.4.1.1.2"
TWO = (Reference(CT, "1.1"), Reference(CT, "1.2"))


def report(
    folder: Path,
    event: Dataset,
    event_type: int | None,
    instance: str = PUSH_MODEL_INSTANCE,
    calling_ae_title: str = PEER.calling_ae_title,
) -> RecordedRequest:
    message = N_EVENT_REPORT()
    message.AffectedSOPInstanceUID = instance
    message.EventTypeID = event_type
    peer = replace(PEER, calling_ae_title=calling_ae_title)
    request = RecordedRequest(message, STORAGE_COMMITMENT_PUSH_MODEL, keys=event, peer=peer)
    CommitmentReportService(ReceivedReports(folder)).serve(request)
    return request


def kept(folder: Path, uid: str) -> object:
    return json.loads((folder / "received" / file_name(uid)).read_text())


def test_j_3_3_1_1_both_event_types_are_kept_in_orthancs_format(tmp_path: Path) -> None:
    event_type, event = event_information("1.9", TWO, {}, "AE")
    assert report(tmp_path, event, event_type).statuses == [SUCCESS]
    assert kept(tmp_path, "1.9") == {
        "Failures": [],
        "RemoteAET": "WORKSTATION",
        "Status": "Success",
        "Success": [{"SOPClassUID": CT, "SOPInstanceUID": uid} for uid in ("1.1", "1.2")],
    }
    event_type, event = event_information("1.9", TWO, {"1.2": 0x0112}, "AE")
    report(tmp_path, event, event_type)
    description = "One or more of the elements in the Referenced SOP Instance Sequence was not available"
    failure = {"SOPClassUID": CT, "SOPInstanceUID": "1.2", "FailureReason": 0x0112, "Description": description}
    assert kept(tmp_path, "1.9") == {
        "Failures": [failure],
        "RemoteAET": "WORKSTATION",
        "Status": "Failure",
        "Success": [{"SOPClassUID": CT, "SOPInstanceUID": "1.1"}],
    }


def test_another_ae_cannot_change_what_one_has_reported(tmp_path: Path) -> None:
    """It would only have to know the Transaction UID to have somebody delete what is not safe."""
    event_type, event = event_information("1.9", TWO, {"1.2": 0x0112}, "AE")
    report(tmp_path, event, event_type)
    before = kept(tmp_path, "1.9")
    event_type, event = event_information("1.9", TWO, {}, "AE")
    with pytest.raises(Refusal) as refusal:
        report(tmp_path, event, event_type, calling_ae_title="OTHER")
    assert refusal.value.status == NOT_AUTHORIZED
    assert kept(tmp_path, "1.9") == before


def without(keyword: str) -> Dataset:
    _, event = event_information("1.9", TWO, {"1.2": 0x0112}, "AE")
    holder = event if keyword in event else event.FailedSOPSequence[0]
    del holder[keyword]
    return event


@pytest.mark.parametrize(
    ("event", "event_type", "instance", "status"),
    [
        (without("ReferencedSOPSequence"), 3, PUSH_MODEL_INSTANCE, NO_SUCH_EVENT_TYPE),
        (without("ReferencedSOPSequence"), None, PUSH_MODEL_INSTANCE, NO_SUCH_EVENT_TYPE),
        (without("ReferencedSOPSequence"), 2, "1.2.3", NO_SUCH_SOP_INSTANCE),
        (without("TransactionUID"), 2, PUSH_MODEL_INSTANCE, INVALID_ARGUMENT_VALUE),
        (without("FailureReason"), 2, PUSH_MODEL_INSTANCE, INVALID_ARGUMENT_VALUE),
        (without("ReferencedSOPInstanceUID"), 2, PUSH_MODEL_INSTANCE, INVALID_ARGUMENT_VALUE),
        (without("FailedSOPSequence"), 2, PUSH_MODEL_INSTANCE, INVALID_ARGUMENT_VALUE),
        (without("ReferencedSOPSequence"), 1, PUSH_MODEL_INSTANCE, INVALID_ARGUMENT_VALUE),
        (Dataset(), 1, PUSH_MODEL_INSTANCE, INVALID_ARGUMENT_VALUE),
    ],
)
def test_ps3_7_10_1_1_bad_reports_have_their_status(
    tmp_path: Path, event: Dataset, event_type: int | None, instance: str, status: int
) -> None:
    with pytest.raises(Refusal) as refusal:
        report(tmp_path, event, event_type, instance)
    assert refusal.value.status == status
    assert list((tmp_path / "received").iterdir()) == []


def test_a_report_that_cannot_be_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReceivedReports, "keep", fail)
    event_type, event = event_information("1.9", TWO, {}, "AE")
    with pytest.raises(Refusal) as refusal:
        report(tmp_path, event, event_type)
    assert refusal.value.status == RESOURCE_LIMITATION


def test_the_number_of_reports_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "MAXIMUM_REPORTS", 3)
    for number in range(5):
        event_type, event = event_information(f"1.{number}", TWO, {}, "AE")
        report(tmp_path, event, event_type)
    assert {path.name for path in (tmp_path / "received").iterdir()} == {file_name(f"1.{n}") for n in (2, 3, 4)}
