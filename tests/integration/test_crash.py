"""Processes that are killed: what is started again, what ends, and that nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker, sop_instance_uid

RESTART_DEADLINE = 2.0  # seconds of a core
LATE = 60.0  # seconds; a machine that does much else gives a process its core only now and then


def uids(paths: list[Path]) -> set[str]:
    return {sop_instance_uid(path.read_bytes()) for path in paths}


def kill_and_wait_for_restart(node: Node, module: str, shown_by: str = "Ready") -> None:
    """SIGKILL to one child; a successor must be started in time, and need no more of a core to be shown as wanted."""
    victim = node.child(module)
    os.kill(victim, signal.SIGKILL)
    killed = time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_until(lambda: node.child_status(module, other_than=victim).get(shown_by), LATE, f"{module} is back")
    started, used = times_of(node.child_status(module, other_than=victim)["Pid"])
    assert started - killed <= RESTART_DEADLINE
    assert used <= RESTART_DEADLINE


def times_of(pid: int) -> tuple[float, float]:
    """When a process was started, on the clock CLOCK_BOOTTIME, and how much of a core it has used; in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third on, proc(5)
    user, system, started = (int(fields[number - 3]) / os.sysconf("SC_CLK_TCK") for number in (14, 15, 22))
    return started, user + system


def test_a_killed_transfer_process_is_back_in_two_seconds_and_nothing_is_lost(
    make_node: NodeMaker, ten: list[Path]
) -> None:
    node = make_node().start()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(node.peer.send, *ten)
        wait_until(node.pending, 20, "the first image is pending")
        kill_and_wait_for_restart(node, "backend.transfer")
        assert sending.result().sent == 10  # a store does not need the transfer process
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(ten)


def test_a_transfer_process_killed_amid_uploads_that_hang_owes_what_it_owed(
    make_node: NodeMaker, ten: list[Path]
) -> None:
    node = make_node(gated=True).start()
    assert node.gate
    node.gate.blackhole()
    assert node.peer.send(*ten).sent == 10
    owed = node.pending()
    assert len(owed) >= 10
    time.sleep(1)  # uploads have given way to these stores, and begun

    kill_and_wait_for_restart(node, "backend.transfer", shown_by="Pid")  # it is ready once S3 answers or times out
    assert node.pending() == owed
    node.gate.open()
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(ten)


def test_a_killed_worker_is_back_in_two_seconds_while_the_others_answer(make_node: NodeMaker, ten: list[Path]) -> None:
    node = make_node({"Isen": {"Dicom": {"Processes": 2}}}).start()
    assert len([1 for command in node.processes().values() if "-m scp" in command]) == 2

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(node.peer.send, *ten)
        kill_and_wait_for_restart(node, "scp")
        answer = sending.result()
    # the association was the victim's or not; what was acknowledged is stored either way, and can be sent again
    assert len(node.instances()) >= answer.statuses.count(0)
    assert node.peer.send(*ten).sent == 10
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(ten)


def test_a_killed_orthanc_leaves_no_child_and_the_next_start_uploads_what_was_pending(
    make_node: NodeMaker, ten: list[Path]
) -> None:
    node = make_node(gated=True).start()
    assert node.gate
    node.gate.refuse()
    assert node.peer.send(*ten).sent == 10
    assert len(node.processes()) >= 3  # Orthanc, transfer, a worker

    node.orthanc.kill()
    node.wait_for_the_end()

    node.gate.open()
    node.start()
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(ten)
    assert {sop_instance_uid(node.file(instance)) for instance in node.instances()} == uids(ten)


def test_an_orthanc_killed_under_load_has_lost_no_acknowledged_image(make_node: NodeMaker, ten: list[Path]) -> None:
    node = make_node().start()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(node.peer.store, *ten)
        wait_until(node.pending, 20, "the first image is pending")
        node.orthanc.kill()
        answer = sending.result()
    acknowledged = answer.statuses.count(0)
    node.wait_for_the_end()

    node.start()
    assert node.incoming() == []
    stored = {sop_instance_uid(node.file(instance)) for instance in node.instances()}
    assert len(stored) >= acknowledged
    assert stored <= uids(ten)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_process_outlives_its_orthanc(make_node: NodeMaker, end: str) -> None:
    node = make_node().start()
    # a peer that is still connected must not hold anything up
    with socket.create_connection(("127.0.0.1", node.orthanc.dicom_port)):
        if end == "stop":
            assert node.stop() == 0
        else:
            node.orthanc.kill()
        node.wait_for_the_end()


def test_removals_made_while_s3_is_away_are_caught_up_after_a_restart(make_node: NodeMaker, ten: list[Path]) -> None:
    node = make_node(gated=True).start()
    assert node.gate
    node.peer.send(*ten)
    node.wait_until_uploaded()
    node.gate.refuse()
    (study,) = node.orthanc.get_json("/studies")
    node.orthanc.delete(f"/studies/{study}")
    node.orthanc.kill()
    node.wait_for_the_end()
    assert len(node.images_in_bucket()) == 10

    node.gate.open()
    node.start()
    wait_until(lambda: node.keys() == [], 30, "the bucket is empty")


def test_orthanc_may_be_reset_within_its_process(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    """The new start finds spool and DICOM port free, although the process that held them has not ended."""
    node = make_node().start()
    node.peer.send(thumbnails[0])
    node.orthanc.post("/tools/reset", b"")
    log = node.folder / "orthanc.log"
    wait_until(lambda: log.read_text().count("Orthanc has started") == 2, LATE, "it has started again")
    node.peer.send(thumbnails[1])
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(thumbnails[:2])
