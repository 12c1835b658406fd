"""Performed procedure steps over the wire (PS3.4 F.7): pynetdicom as modality, the managed worklist, a real Orthanc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from backend.stack.dcmtk import Peer
from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from scp.statuses import (
    ATTRIBUTE_LIST_ERROR,
    DUPLICATE_SOP_INSTANCE,
    MISSING_ATTRIBUTE,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
)
from tests.fakes.performed_steps import STUDY, creation, ending
from tests.fakes.ris import Ris
from tests.integration.harness import Node, NodeMaker

MPPS = "1.2.840.10008.3.1.2.3.3"


@pytest.fixture(scope="module")
def node(make_shared_node: NodeMaker, tmp_path_factory: pytest.TempPathFactory) -> Node:
    managed = tmp_path_factory.mktemp("managed")
    return make_shared_node({"Isen": {"Worklists": {"ManagedDirectory": str(managed)}}}).start()


@pytest.fixture
def modality(node: Node) -> Iterator[Association]:
    ae = AE("CT1")
    ae.add_requested_context(MPPS)
    association = ae.associate("127.0.0.1", node.orthanc.dicom_port, ae_title="ORTHANC")
    assert association.is_established
    yield association
    association.release()


def create(modality: Association, uid: str | None, **changes: object) -> Dataset:
    status, _ = modality.send_n_create(creation(**changes), MPPS, uid)
    return status


def change(modality: Association, uid: str, dataset: Dataset) -> Dataset:
    status, _ = modality.send_n_set(dataset, MPPS, uid)
    return status


def stored(node: Node, uid: str) -> dict[str, Any]:
    document: dict[str, Any] = node.orthanc.get_json(f"/isen/mpps/{uid}")
    return document


def test_f_7_2_a_step_from_its_start_to_its_end(node: Node, modality: Association) -> None:
    uid = generate_uid()
    assert create(modality, uid).Status == SUCCESS
    step = stored(node, uid)
    assert (step["SOPInstanceUID"], step["RemoteAET"]) == (uid, "CT1")
    assert step["PerformedProcedureStepStatus"] == "IN PROGRESS"
    assert step["Attributes"]["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]
    assert create(modality, uid).Status == DUPLICATE_SOP_INSTANCE

    assert change(modality, uid, ending()).Status == SUCCESS
    assert stored(node, uid)["PerformedProcedureStepStatus"] == "COMPLETED"
    refused = change(modality, uid, ending("DISCONTINUED"))
    assert (refused.Status, refused.ErrorID) == (PROCESSING_FAILURE, 0xA710)
    assert refused.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert stored(node, uid)["PerformedProcedureStepStatus"] == "COMPLETED"
    assert uid in [one["SOPInstanceUID"] for one in node.orthanc.get_json("/isen/mpps?limit=1000")]


def test_ps3_7_10_1_bad_requests_have_their_status(node: Node, modality: Association) -> None:
    uid = generate_uid()
    assert change(modality, uid, ending()).Status == NO_SUCH_SOP_INSTANCE
    missing = create(modality, uid, Modality=None)
    assert (missing.Status, missing.ErrorComment) == (MISSING_ATTRIBUTE, "Modality is missing")
    with pytest.raises(HTTPError, match="404"):
        stored(node, uid)
    assert create(modality, uid).Status == SUCCESS
    patient = Dataset()
    patient.PatientID = "P2"
    assert change(modality, uid, patient).Status == ATTRIBUTE_LIST_ERROR
    assert stored(node, uid)["Attributes"]["00100020"]["Value"] == ["P1"]


def test_ps3_7_10_1_5_1_4_without_a_uid_ours_is_returned(node: Node, modality: Association) -> None:
    known = {one["SOPInstanceUID"] for one in node.orthanc.get_json("/isen/mpps?limit=1000")}
    assert create(modality, None).Status == SUCCESS
    (new,) = {one["SOPInstanceUID"] for one in node.orthanc.get_json("/isen/mpps?limit=1000")} - known
    assert new.startswith("2.25.")


def worklist(node: Node) -> list[str]:
    """The steps that are still to be done, as findscu sees them."""
    keys = ("PatientID=P1", "ScheduledProcedureStepSequence[0].ScheduledProcedureStepID")
    answer = Peer(node.orthanc.dicom_port).find(*keys, model="-W")
    return sorted(one.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID for one in answer.data_sets)


def schedule(node: Node, step_id: str, study: str) -> str:
    tags = {
        "PatientName": "Müller^Jörg",
        "PatientID": "P1",
        "StudyInstanceUID": study,
        "ScheduledProcedureStepSequence": [
            {
                "Modality": "CT",
                "ScheduledProcedureStepStartDate": "20240229",
                "ScheduledProcedureStepID": step_id,
            }
        ],
    }
    answer = json.loads(node.orthanc.post("/isen/worklists", json.dumps({"Tags": tags}).encode()))
    return str(answer["ID"])


def test_the_worklist_hides_what_was_started_and_knows_how_it_ended(node: Node, modality: Association) -> None:
    """Only the step that was performed: another of the patient's, or of the same id in another study, stays."""
    begun = schedule(node, "SPS1", STUDY)
    schedule(node, "SPS2", STUDY)
    schedule(node, "SPS1", "1.2.826.0.1.3680043.8.498.99")
    assert worklist(node) == ["SPS1", "SPS1", "SPS2"]
    uid = generate_uid()
    assert create(modality, uid).Status == SUCCESS
    assert worklist(node) == ["SPS1", "SPS2"]
    assert status(node, begun) == "STARTED"
    assert change(modality, uid, ending("DISCONTINUED")).Status == SUCCESS
    assert status(node, begun) == "DISCONTINUED"
    assert worklist(node) == ["SPS1", "SPS2"]


def status(node: Node, entry: str) -> str:
    tags = node.orthanc.get_json(f"/isen/worklists/{entry}")["Tags"]
    return str(tags["ScheduledProcedureStepSequence"][0]["ScheduledProcedureStepStatus"])


def test_steps_survive_the_end_of_every_process(make_node: NodeMaker) -> None:
    node = make_node().start()
    ae = AE("CT1")
    ae.add_requested_context(MPPS)
    association = ae.associate("127.0.0.1", node.orthanc.dicom_port, ae_title="ORTHANC")
    uid = generate_uid()
    assert create(association, uid).Status == SUCCESS
    node.orthanc.kill()
    node.wait_for_the_end()
    node.start()
    association = ae.associate("127.0.0.1", node.orthanc.dicom_port, ae_title="ORTHANC")
    assert change(association, uid, ending()).Status == SUCCESS
    association.release()
    assert stored(node, uid)["PerformedProcedureStepStatus"] == "COMPLETED"


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
def test_the_list_is_bounded(node: Node, limit: str) -> None:
    with pytest.raises(HTTPError, match="400"):
        node.orthanc.get(f"/isen/mpps?limit={limit}")


def test_a_ris_is_told_of_every_step_even_if_everything_ends_in_between(make_node: NodeMaker) -> None:
    """ForwardPerformedProcedureSteps: the RIS is away, Orthanc is killed, and it hears of the step all the same."""
    ris = Ris(free_port())
    node = make_node(
        {
            "DicomModalities": {"ris": ["RIS", "127.0.0.1", ris.port]},
            "Isen": {"Dicom": {"ForwardPerformedProcedureSteps": "ris"}},
        }
    ).start()
    uid = generate_uid()
    ae = AE("CT1")
    ae.add_requested_context(MPPS)
    association = ae.associate("127.0.0.1", node.orthanc.dicom_port, ae_title="ORTHANC")
    assert create(association, uid).Status == SUCCESS
    assert change(association, uid, ending("DISCONTINUED")).Status == SUCCESS
    association.release()
    assert stored(node, uid)["Forwarding"]["State"] == "Pending"
    assert node.status()["Dicom"]["PerformedProcedureSteps"] == {"Outgoing": 1, "Refused": 0}
    node.orthanc.kill()
    node.wait_for_the_end()
    ris.start()
    try:
        node.start()
        wait_until(lambda: stored(node, uid)["Forwarding"]["State"] == "Forwarded", 30, "the RIS has been told")
        (created, begun), (updated, ended) = ris.of(uid)
        assert (created, updated) == ("N-CREATE", "N-SET")
        assert str(begun.PatientName) == "Müller^Jörg"
        assert ended.PerformedProcedureStepStatus == "DISCONTINUED"
        assert node.status()["Dicom"]["PerformedProcedureSteps"] == {"Outgoing": 0, "Refused": 0}

        def metrics() -> str:
            return node.orthanc.get("/tools/metrics-prometheus").decode()

        wait_until(lambda: "isen_mpps_forward_pending_count 0" in metrics(), 20, "the metric says so")
    finally:
        ris.stop()
