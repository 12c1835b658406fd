"""Storage commitment over the wire (PS3.4 Annex J): pynetdicom and Orthanc itself as peers, a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from scp.statuses import (
    CLASS_INSTANCE_CONFLICT,
    DUPLICATE_TRANSACTION_UID,
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_ACTION,
    NO_SUCH_SOP_INSTANCE,
    NOT_AUTHORIZED,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
)
from tests.fakes.commitment_peer import CommitmentPeer, action_information
from tests.fakes.images import write_series
from tests.integration.harness import Node, NodeMaker, sop_instance_uid
from tests.integration.scp_fixtures import LocalOrthanc

COMPLETED, FAILURES_EXIST = 1, 2
DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: never stored over the network


def references(paths: list[Path]) -> list[tuple[str, str]]:
    return [(CTImageStorage, sop_instance_uid(path.read_bytes())) for path in paths]


def node_for(make: NodeMaker, port: int, isen: dict[str, Any] | None = None, **options: Any) -> Node:
    """A node that knows a modality on this port."""
    modalities = {"modality": ["MODALITY", "127.0.0.1", port]}
    return make({"DicomModalities": modalities, "Isen": isen or {}}, **options)


@pytest.fixture(scope="module")
def shared(make_shared_node: NodeMaker) -> tuple[Node, int]:
    port = free_port()
    return node_for(make_shared_node, port).start(), port


@pytest.fixture
def node(shared: tuple[Node, int]) -> Node:
    return shared[0]


@pytest.fixture
def peer(shared: tuple[Node, int]) -> Iterator[CommitmentPeer]:
    node, port = shared
    peer = CommitmentPeer(node.orthanc.dicom_port).listen(port)
    yield peer
    peer.close()


@pytest.fixture
def stored(node: Node, tmp_path: Path) -> list[tuple[str, str]]:
    """References of three images that are in S3."""
    paths = write_series(tmp_path / "series", 3, side=32)
    assert node.peer.send(*paths).sent == 3
    node.wait_until_uploaded()
    return references(paths)


def test_j_3_3_1_a_report_on_the_same_association_when_the_peer_stays(
    peer: CommitmentPeer, stored: list[tuple[str, str]]
) -> None:
    uid = generate_uid()
    assert peer.request(*stored, transaction_uid=uid, stay=10) == SUCCESS
    report = peer.report()
    assert report.on_own_association
    assert report.event_type == COMPLETED
    assert report.information.TransactionUID == uid
    assert report.committed == {instance for _, instance in stored}
    assert "FailedSOPSequence" not in report.information


def test_j_3_3_1_a_report_on_another_association_when_the_peer_has_gone(
    peer: CommitmentPeer, stored: list[tuple[str, str]]
) -> None:
    assert peer.request(*stored) == SUCCESS
    report = peer.report()
    assert not report.on_own_association
    assert report.calling_ae_title == "ORTHANC"
    assert report.event_type == COMPLETED
    assert report.committed == {instance for _, instance in stored}


def test_j_3_3_1_2_every_reference_is_in_one_sequence_or_the_other_with_its_reason(
    peer: CommitmentPeer, stored: list[tuple[str, str]]
) -> None:
    """PS3.3 C.14.1.1: no such instance, another class than the instance's, a class that is not stored here."""
    unknown, foreign = generate_uid(), generate_uid()
    (_, first), (_, second), (_, third) = stored
    asked = [(CTImageStorage, first), (CTImageStorage, second), (MRImageStorage, third), (CTImageStorage, unknown)]
    assert peer.request(*asked, (DICOMDIR, foreign), stay=10) == SUCCESS
    report = peer.report()
    assert report.event_type == FAILURES_EXIST
    assert report.committed == {first, second}
    assert report.failed == {
        third: CLASS_INSTANCE_CONFLICT,
        unknown: NO_SUCH_SOP_INSTANCE,
        foreign: SOP_CLASS_NOT_SUPPORTED,
    }


def test_an_object_whose_bytes_changed_in_s3_is_not_committed(node: Node, peer: CommitmentPeer, tmp_path: Path) -> None:
    """Neither the cache nor Orthanc's index decide: S3 does."""
    damaged, cut, whole = write_series(tmp_path / "series", 3, side=32)
    before = set(node.keys())
    assert node.peer.send(damaged, cut, whole).sent == 3
    node.wait_until_uploaded()
    objects = {
        sop_instance_uid(node.s3.object(node.bucket, k)): k for k in set(node.keys()) - before if k[-4:] == ".dcm"
    }
    uids = [sop_instance_uid(path.read_bytes()) for path in (damaged, cut, whole)]
    content = node.s3.object(node.bucket, objects[uids[0]])
    node.s3.replace(node.bucket, objects[uids[0]], content[:-1] + bytes([content[-1] ^ 1]))
    node.s3.replace(node.bucket, objects[uids[1]], content[:-2])
    assert peer.request(*((CTImageStorage, uid) for uid in uids), stay=10) == SUCCESS
    report = peer.report()
    assert report.failed == {uids[0]: PROCESSING_FAILURE, uids[1]: PROCESSING_FAILURE}
    assert report.committed == {uids[2]}


def test_j_3_3_1_2_a_transaction_uid_is_used_once(peer: CommitmentPeer, stored: list[tuple[str, str]]) -> None:
    uid = generate_uid()
    assert peer.request(*stored, transaction_uid=uid, stay=10) == SUCCESS
    assert peer.report().event_type == COMPLETED
    assert peer.request(*stored, transaction_uid=uid, stay=10) == SUCCESS
    assert set(peer.report().failed.values()) == {DUPLICATE_TRANSACTION_UID}


def test_j_3_2_1_several_requests_on_one_association(peer: CommitmentPeer, stored: list[tuple[str, str]]) -> None:
    """The peer sends its next request while our report of the one before is on its way."""
    association = peer.associate()
    uids = [generate_uid() for _ in range(5)]
    for uid in uids:
        information = action_information(uid, stored)
        status, _ = association.send_n_action(information, 1, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1")
        assert status.Status == SUCCESS
    association.release()
    assert {peer.report().information.TransactionUID for _ in uids} == set(uids)


def test_a_release_is_answered_while_thousands_of_references_are_looked_up(peer: CommitmentPeer) -> None:
    unknown = [(CTImageStorage, f"1.2.3.{number}") for number in range(5000)]
    information = action_information(generate_uid(), unknown)
    association = peer.associate()
    status, _ = association.send_n_action(information, 1, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1")
    assert status.Status == SUCCESS
    begun = time.monotonic()
    association.release()
    assert association.is_released
    assert time.monotonic() - begun < 5
    report = peer.report(60)
    assert not report.on_own_association
    assert len(report.failed) == 5000


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"action_type": 2}, NO_SUCH_ACTION),
        ({"instance": "1.2.3"}, NO_SUCH_SOP_INSTANCE),
        ({"information": action_information(None, [(CTImageStorage, "1.2.3")])}, INVALID_ARGUMENT_VALUE),
        ({"information": action_information("not-a-uid", [(CTImageStorage, "1.2.3")])}, INVALID_ARGUMENT_VALUE),
        ({"information": action_information("1.2.3", [])}, INVALID_ARGUMENT_VALUE),
        ({"information": action_information("1.2.3", [(CTImageStorage, "../../x")])}, INVALID_ARGUMENT_VALUE),
    ],
    ids=["action type", "instance", "no transaction", "no uid", "no references", "reference"],
)
def test_ps3_7_10_1_4_bad_requests_have_their_status(
    node: Node, peer: CommitmentPeer, changes: dict[str, Any], status: int
) -> None:
    requests = node.folder / "spool" / "commitments" / "requests"
    wait_until(lambda: not os.listdir(requests), 10, "nothing is open")
    assert peer.request((CTImageStorage, "1.2.3"), **changes) == status
    assert os.listdir(requests) == []


def test_only_configured_modalities_may_ask(node: Node) -> None:
    """The report needs an address, and only the configuration can give one."""
    stranger = CommitmentPeer(node.orthanc.dicom_port, ae_title="STRANGER")
    assert stranger.request((CTImageStorage, "1.2.3")) == NOT_AUTHORIZED


def test_nothing_is_committed_before_s3_has_it_and_requests_survive_the_end_of_every_process(
    make_node: NodeMaker, tmp_path: Path
) -> None:
    port = free_port()
    node = node_for(make_node, port, {"Storage": {"ConnectTimeout": 1, "RequestTimeout": 2}}, gated=True).start()
    assert node.gate
    node.gate.refuse()
    paths = write_series(tmp_path / "series", 3, side=32)
    assert node.peer.send(*paths).sent == 3
    peer = CommitmentPeer(node.orthanc.dicom_port).listen(port)
    assert peer.request(*references(paths), stay=4) == SUCCESS
    assert peer.reports.empty()  # although spool and index have all of it

    node.orthanc.kill()
    node.wait_for_the_end()
    node.gate.open()
    node.start()
    report = peer.report(30)
    assert report.event_type == COMPLETED
    assert report.committed == {instance for _, instance in references(paths)}
    peer.close()


def test_after_the_patience_what_is_not_in_s3_is_reported_as_failed(make_node: NodeMaker, tmp_path: Path) -> None:
    port = free_port()
    storage = {"ConnectTimeout": 1, "RequestTimeout": 2}
    node = node_for(make_node, port, {"Storage": storage, "Dicom": {"CommitmentTimeout": 3}}, gated=True).start()
    assert node.gate
    node.gate.refuse()
    paths = write_series(tmp_path / "series", 2, side=32)
    assert node.peer.send(*paths).sent == 2
    peer = CommitmentPeer(node.orthanc.dicom_port).listen(port)
    assert peer.request(*references(paths)) == SUCCESS
    report = peer.report(30)
    assert set(report.failed.values()) == {RESOURCE_LIMITATION}
    assert not report.committed
    peer.close()


def test_a_report_is_sent_again_until_the_peer_has_taken_it(make_node: NodeMaker, tmp_path: Path) -> None:
    """Away at first, then refusing; a worker dies meanwhile."""
    port = free_port()
    node = node_for(make_node, port, {"Dicom": {"Processes": 2}}).start()
    paths = write_series(tmp_path / "series", 2, side=32)
    assert node.peer.send(*paths).sent == 2
    peer = CommitmentPeer(node.orthanc.dicom_port)
    uid = generate_uid()
    assert peer.request(*references(paths), transaction_uid=uid) == SUCCESS
    wait_until(lambda: "storage_commitment_not_reported" in node.orthanc.log.read_text(), 20, "a report has failed")
    for pid, command in node.processes().items():
        if "-m scp" in command:
            os.kill(pid, signal.SIGKILL)
    peer.status = PROCESSING_FAILURE
    peer.listen(port)
    assert peer.report(30).information.TransactionUID == uid
    peer.status = SUCCESS
    report = peer.report(30)
    assert report.event_type == COMPLETED
    folder = node.folder / "spool" / "commitments"
    wait_until(lambda: not os.listdir(folder / "requests"), 10, "nothing is owed")
    assert os.listdir(folder / "outcomes") == []
    assert len(os.listdir(folder / "finished")) == 1
    peer.close()


@pytest.fixture(scope="module")
def other_archive(tmp_path_factory: pytest.TempPathFactory, shared: tuple[Node, int]) -> Iterator[LocalOrthanc]:
    """An Orthanc without Isen, known to the shared node as "archive", and the other way round."""
    node, _ = shared
    port = node.orthanc.dicom_port
    orthanc = LocalOrthanc(
        tmp_path_factory.mktemp("archive"),
        {"DicomAet": "ARCHIVE", "DicomModalities": {"isen": ["ORTHANC", "127.0.0.1", port]}},
    )
    itself = {"AET": "ARCHIVE", "Host": "127.0.0.1", "Port": orthanc.dicom_port}
    orthanc.request("/modalities/itself", json.dumps(itself).encode(), "PUT")
    archive = {"AET": "ARCHIVE", "Host": "127.0.0.1", "Port": orthanc.dicom_port}
    node.orthanc.put("/modalities/archive", json.dumps(archive).encode())
    probe = CommitmentPeer(port, ae_title="ARCHIVE")

    def every_worker_knows_it() -> bool:  # they ask Orthanc for its modalities every few seconds
        statuses = {probe.request((CTImageStorage, "1.2.3"), action_type=2) for _ in range(6)}
        return statuses == {NO_SUCH_ACTION}

    wait_until(every_worker_knows_it, 20, "the workers know the archive")
    yield orthanc
    orthanc.stop()


def test_orthanc_as_the_peer_gets_its_report(
    node: Node, other_archive: LocalOrthanc, stored: list[tuple[str, str]]
) -> None:
    """A second implementation of the peer's part: it releases at once and wants another association."""
    unknown = generate_uid()
    body = json.dumps({"DicomInstances": [*stored, (CTImageStorage, unknown)]}).encode()

    path = other_archive.request("/modalities/isen/storage-commitment", body)["Path"]
    wait_until(lambda: other_archive.request(path)["Status"] != "Pending", 20, "the report has come")
    found = other_archive.request(path)
    assert {one["SOPInstanceUID"] for one in found["Success"]} == {instance for _, instance in stored}
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in found["Failures"]] == [
        (unknown, NO_SUCH_SOP_INSTANCE)
    ]


def test_the_report_on_orthancs_own_request_is_found_where_its_users_look(
    node: Node, other_archive: LocalOrthanc, tmp_path: Path
) -> None:
    """It comes to our port, where Orthanc does not see it."""
    held, lost = write_series(tmp_path / "series", 2, side=32)
    other_archive.store(held.read_bytes())
    ((_, instance),), ((_, missing),) = references([held]), references([lost])
    body = json.dumps({"DicomInstances": [[CTImageStorage, instance], [CTImageStorage, missing]]}).encode()
    answer = json.loads(node.orthanc.post("/modalities/archive/storage-commitment", body))
    wait_until(lambda: node.orthanc.get_json(answer["Path"])["Status"] != "Pending", 20, "the report has come")
    report = node.orthanc.get_json(answer["Path"])
    # format and words of Orthanc's own report
    own = other_archive.request("/modalities/itself/storage-commitment", body)["Path"]
    wait_until(lambda: other_archive.request(own)["Status"] != "Pending", 20, "Orthanc has answered itself")
    assert report == {**other_archive.request(own), "RemoteAET": "ARCHIVE"}
    assert node.orthanc.get_json("/isen" + answer["Path"]) == report


def test_another_modality_cannot_change_what_one_has_reported(node: Node, other_archive: LocalOrthanc) -> None:
    uid, references = generate_uid(), [(CTImageStorage, "1.2.3")]
    assert CommitmentPeer(node.orthanc.dicom_port, "ARCHIVE").send_report(uid, references) == SUCCESS
    report = node.orthanc.get_json(f"/storage-commitment/{uid}")
    other = CommitmentPeer(node.orthanc.dicom_port, "MODALITY")
    assert other.send_report(uid, [(CTImageStorage, "1.2.4")]) == NOT_AUTHORIZED
    assert node.orthanc.get_json(f"/storage-commitment/{uid}") == report


def test_unknown_transactions_are_not_found(node: Node) -> None:
    with pytest.raises(HTTPError, match="404"):
        node.orthanc.get("/storage-commitment/1.2.3")
    with pytest.raises(HTTPError, match="404"):
        node.orthanc.get("/isen/storage-commitment/1.2.3")
