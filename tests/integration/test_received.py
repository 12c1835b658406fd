"""`Acknowledge: "Received"`: answered before Orthanc has the instance, and nothing acknowledged is ever lost.

A stopped Orthanc (SIGSTOP) takes nothing, while its workers go on receiving.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker, sop_instance_uid

DEADLINE = 40.0  # seconds; a worker that was killed is started again, or another adopts what it owed


@pytest.fixture
def node(make_node: NodeMaker) -> Node:
    return make_node({"Isen": {"Dicom": {"Acknowledge": "Received", "Processes": 2}}}).start()


def uids(paths: list[Path]) -> set[str]:
    return {sop_instance_uid(path.read_bytes()) for path in paths}


def waiting(node: Node) -> list[str]:
    return os.listdir(node.folder / "spool" / "received" / "pending")


def wait_until_stored(node: Node, paths: list[Path]) -> None:
    wait_until(lambda: not waiting(node), DEADLINE, "Orthanc has everything")
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(paths)
    assert {sop_instance_uid(node.file(instance)) for instance in node.instances()} == uids(paths)


def workers(node: Node) -> list[int]:
    return [pid for pid, command in node.processes().items() if command.endswith("-m scp")]


def test_an_instance_reaches_orthanc_and_s3_as_it_was_sent(node: Node, ten: list[Path]) -> None:
    assert node.peer.send(*ten).sent == 10
    wait_until_stored(node, ten)
    sent = {sop_instance_uid(path.read_bytes()): dcmread(path) for path in ten}
    for instance in node.instances():
        stored = dcmread(BytesIO(node.file(instance)))
        assert stored == sent[stored.SOPInstanceUID]


def test_it_is_acknowledged_while_orthanc_takes_nothing_and_survives_orthanc_killed(
    node: Node, ten: list[Path]
) -> None:
    os.kill(node.orthanc.process.pid, signal.SIGSTOP)
    assert node.peer.send(*ten).sent == 10
    assert len(waiting(node)) == 10
    node.orthanc.kill()
    node.wait_for_the_end()
    assert len(waiting(node)) == 10
    node.start()
    wait_until_stored(node, ten)


def test_it_survives_its_workers_killed(node: Node, ten: list[Path]) -> None:
    os.kill(node.orthanc.process.pid, signal.SIGSTOP)
    assert node.peer.send(*ten).sent == 10
    for worker in workers(node):
        os.kill(worker, signal.SIGKILL)
    os.kill(node.orthanc.process.pid, signal.SIGCONT)
    wait_until_stored(node, ten)


def test_it_survives_everything_killed_while_images_arrive(node: Node, ten: list[Path]) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(node.peer.store, *ten)
        wait_until(lambda: waiting(node) or node.pending(), 20, "the first image has arrived")
        for pid in (node.orthanc.process.pid, *workers(node)):
            os.kill(pid, signal.SIGKILL)
        acknowledged = sending.result().statuses.count(0)
    node.wait_for_the_end()
    node.start()
    wait_until(lambda: not waiting(node), DEADLINE, "Orthanc has everything")
    assert len(node.instances()) >= acknowledged


def test_what_is_owed_is_handed_over_after_a_change_to_stored(make_node: NodeMaker, ten: list[Path]) -> None:
    node = make_node({"Isen": {"Dicom": {"Acknowledge": "Received"}}}).start()
    os.kill(node.orthanc.process.pid, signal.SIGSTOP)
    assert node.peer.send(*ten).sent == 10
    node.orthanc.kill()
    node.wait_for_the_end()
    node.orthanc.settings["Isen"]["Dicom"]["Acknowledge"] = "Stored"
    node.start()
    wait_until_stored(node, ten)


def test_an_instance_that_orthanc_refuses_for_good_is_kept_aside_and_shown(
    node: Node, ten: list[Path], tmp_path: Path
) -> None:
    dataset = dcmread(ten[0])
    del dataset.StudyInstanceUID  # Orthanc cannot file it
    path = tmp_path / "no-study.dcm"
    dataset.save_as(path)
    assert node.peer.store(path).statuses == [0]
    refused = node.folder / "spool" / "received" / "refused"
    wait_until(lambda: any(refused.iterdir()), DEADLINE, "it is kept aside")
    (kept,) = refused.iterdir()
    assert sop_instance_uid(kept.read_bytes()) == dataset.SOPInstanceUID
    wait_until(lambda: node.status()["Dicom"]["Received"]["RefusedCount"] == 1, 10, "the status says so")
    assert node.status()["Dicom"]["Received"]["Count"] == 0
    wait_until(
        lambda: "isen_scp_received_refused_count 1" in node.orthanc.get("/tools/metrics-prometheus").decode(),
        20,
        "the metrics say so",
    )
    assert node.instances() == []
