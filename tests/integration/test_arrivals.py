"""A lone sender's images are made durable by the DICOM worker while Orthanc parses them; the plugin takes them over."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backend.stack.processes import wait_until
from config.arrival import arrival_name
from tests.integration.harness import Node, NodeMaker
from tests.integration.test_storage import sent


def taken_over(node: Node) -> int:
    return int(node.status()["Storage"]["Counters"]["creates_taken_over"])


def arriving(node: Node) -> list[str]:
    return os.listdir(node.folder / "spool" / "arriving")


def pixels(images: dict[str, bytes]) -> dict[str, bytes]:
    """SOPInstanceUID → pixel data."""
    return {uid: content[-512 * 512 * 2 :] for uid, content in images.items()}


def test_images_and_their_beginnings_are_taken_over_and_reach_s3(
    make_node: NodeMaker, five_hundred: list[Path]
) -> None:
    node = make_node({"Isen": {"Dicom": {"Processes": 2}}}).start()
    folder = five_hundred[0]
    assert node.peer.send(folder).sent == 125
    node.wait_until_uploaded()
    assert pixels(node.images_in_bucket()) == pixels(sent([folder]))
    # not those of the first quarter of a second, nor, on a busy machine, those that the worker began too late
    assert taken_over(node) > 20
    assert arriving(node) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"StorageCompression": True},
        {"Isen": {"Storage": {"Durability": "ObjectStore"}}},
        {"IngestTranscoding": "1.2.840.10008.1.2"},
    ],
    ids=["compressed", "object store", "transcoded"],
)
def test_where_nothing_can_be_taken_over_all_is_stored_and_it_is_not_tried_for_ever(
    make_node: NodeMaker, five_hundred: list[Path], changes: dict[str, Any]
) -> None:
    node = make_node({**changes, "Isen": {"Dicom": {"Processes": 1}, **changes.get("Isen", {})}}).start()
    with ThreadPoolExecutor(1) as pool:
        sender = pool.submit(node.peer.send, five_hundred[0])
        copies = set()
        while not sender.done():
            copies.update(name.removesuffix(".part") for name in arriving(node))
            time.sleep(0.001)
        assert sender.result().sent == 125
    assert 1 <= len(copies) <= 2 * 8  # files and beginnings
    node.wait_until_uploaded()
    assert len(node.instances()) == 125
    assert arriving(node) == node.incoming() == []


def test_a_worker_killed_in_the_middle_leaves_nothing_that_is_taken_for_an_image(
    make_node: NodeMaker, five_hundred: list[Path]
) -> None:
    node = make_node({"Isen": {"Dicom": {"Processes": 1}}}).start()
    with ThreadPoolExecutor(1) as pool:
        for folder in five_hundred[:2]:
            before = taken_over(node)
            sender = pool.submit(node.peer.send, folder)
            wait_until(lambda least=before + 10: taken_over(node) > least, 30, "some images were taken over")
            os.kill(node.child("scp"), signal.SIGKILL)
            sender.result(60)
            wait_until(lambda: node.peer.echo().exit_code == 0, 30, "another worker serves")
    node.wait_until_uploaded()
    images, originals = node.images_in_bucket(), sent(five_hundred[:2])
    assert len(images) == len(node.instances()) > 10
    assert pixels(images) == pixels({uid: originals[uid] for uid in images})
    assert arriving(node) == []  # the next worker has swept them


def test_a_worker_that_stands_still_delays_no_store_but_that_of_the_same_bytes(
    make_node: NodeMaker, thumbnails: list[Path]
) -> None:
    """It holds the lock of its copy until it goes on, or is ended: a hung one is, after half a minute."""
    node = make_node().start()
    content = thumbnails[0].read_bytes()
    part = node.folder / "spool" / "arriving" / f"{arrival_name(content, len(content))}.part"
    with ThreadPoolExecutor(1) as pool, part.open("xb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        stopped.write(content)
        stopped.flush()
        waiting = pool.submit(node.orthanc.post, "/instances", content)
        began = time.monotonic()
        for path in thumbnails[1:]:
            node.orthanc.post("/instances", path.read_bytes())
        assert time.monotonic() - began < 10
        assert not waiting.done()
        stopped.close()  # as its end does
        waiting.result(20)
    part.unlink()
    assert len(node.instances()) == len(thumbnails)
    node.wait_until_uploaded()
    assert content in node.images_in_bucket().values()
