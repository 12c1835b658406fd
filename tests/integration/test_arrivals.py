"""A lone sender's images are made durable by the DICOM worker while Orthanc parses them; the plugin takes them over."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backend.stack.processes import wait_until
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
