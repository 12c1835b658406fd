"""kill -9 at random moments under load: no instance that was acknowledged is lost or altered.

Orthanc, the transfer process and the workers are killed while senders store over DICOM and HTTP and note each
acknowledgement with the SHA-256 of what they sent. In the end all of it is read back twice: from the node as it is, and
from S3 alone.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest

from backend.stack.processes import wait_until
from tests.faults.senders import Senders, assert_all_is_there
from tests.integration.harness import UPLOAD_DEADLINE, Node, NodeMaker

CHILDREN = ("-m backend.transfer", "-m scp")
ORTHANC = 0.06  # part of the kills that Orthanc gets, because its start takes some seconds
END_DEADLINE = 60.0  # seconds; a child that has just been started imports first, on a busy machine for long
LEAST_RATE = 10  # uploads per second afterwards
LONGEST_PAUSE = 0.6  # seconds between two kills


def kill_something(node: Node, source: random.Random) -> str:
    """SIGKILL to one process of the node; a dead Orthanc is started again."""
    children = [
        (pid, name) for pid, command in sorted(node.processes().items()) for name in CHILDREN if name in command
    ]
    if children and source.random() > ORTHANC:
        pid, name = source.choice(children)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # the victim of the last time, which had not quite gone
            return kill_something(node, source)
        return name
    node.orthanc.kill()
    wait_until(lambda: not node.processes(), END_DEADLINE, "every process of the dead Orthanc has ended")
    node.start()
    return "Orthanc"


def kill_at_random(make_node: NodeMaker, cycles: int, seed: int | None = None) -> None:
    """So many kills; the same seed chooses the same victims and pauses."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    source = random.Random(seed)
    node = make_node({"Isen": {"Dicom": {"Processes": 2}}}).start()
    senders = Senders(node, pause=0.03)
    killed: Counter[str] = Counter()
    began = time.monotonic()
    print(f"seed {seed}")
    with senders.running():
        for _ in range(cycles):
            time.sleep(source.uniform(0, LONGEST_PAUSE))
            killed[kill_something(node, source)] += 1
    acknowledged = senders.acknowledged
    print(f"killed {dict(killed)} in {time.monotonic() - began:.0f} s, {len(acknowledged)} instances acknowledged")
    assert len(acknowledged) > cycles
    assert senders.attempts > len(acknowledged)  # or no kill has met a store

    # each kill of the transfer process lets a backlog grow, the more the busier the machine is
    node.wait_until_uploaded(UPLOAD_DEADLINE + len(node.pending()) / LEAST_RATE)
    wait_until(lambda: node.spool_status()["UsedBytes"] == 0, 30, "the account says that the spool is empty")
    assert node.incoming() == []
    assert_all_is_there(node, acknowledged)
    node.stop()
    node.set_aside("spool", "cache")
    node.start()
    assert_all_is_there(node, acknowledged)


@pytest.mark.timeout(600)
def test_a_hundred_kills_lose_and_alter_nothing_that_was_acknowledged(make_node: NodeMaker) -> None:
    kill_at_random(make_node, 100)


@pytest.mark.soak
def test_two_thousand_kills_lose_and_alter_nothing_that_was_acknowledged(make_node: NodeMaker) -> None:
    kill_at_random(make_node, 2000)
