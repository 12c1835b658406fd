"""Two Orthancs over one PostgreSQL index and one bucket, each with a spool and a cache of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from backend.stack.orthanc import Orthanc
from backend.stack.processes import wait_until
from tests.integration.harness import NEWER, OLDER, Node, NodeMaker, sop_instance_uid
from tests.servers.postgresql import INDEX_PLUGIN, PostgreSql, PostgreSqlUnavailable

Pair = tuple[Node, Node]


@pytest.fixture
def postgresql() -> Iterator[PostgreSql]:
    try:
        server = PostgreSql()
    except PostgreSqlUnavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture
def script() -> dict[str, Any]:
    """What the second node's Orthanc executes."""
    return NEWER


@pytest.fixture
def pair(postgresql: PostgreSql, make_node: NodeMaker, script: dict[str, Any]) -> Pair:
    """Two running nodes; the first has a gate before S3."""
    first, second = make_node(gated=True), make_node()
    second.orthanc.settings.update(script)
    second.bucket = first.bucket
    second.orthanc.settings["Isen"]["Storage"]["BucketName"] = first.bucket
    for node in (first, second):
        node.orthanc.settings["Plugins"].append(str(INDEX_PLUGIN))
        node.orthanc.settings["PostgreSQL"] = postgresql.options
        node.orthanc.settings["DatabaseServerIdentifier"] = node.orthanc.mark
        node.start()
    return first, second


def images(node: Node) -> dict[str, bytes]:
    """SOPInstanceUID → file, of every instance of the index, as this node hands it out."""
    with ThreadPoolExecutor(4) as pool:
        return {sop_instance_uid(content): content for content in pool.map(node.file, node.instances())}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("script", [NEWER, OLDER], ids=["alike", "one-still-with-the-first-storage-area"])
def test_a_fresh_image_is_readable_at_the_other_node_and_can_be_removed_at_either(
    pair: Pair, ten: list[Path], thumbnails: list[Path]
) -> None:
    """Also while the nodes are upgraded one after the other."""
    first, second = pair
    for node, other, files in ((first, second, ten), (second, first, thumbnails)):
        # at once: the upload may still be under way, and is waited for
        for path in files:
            content = path.read_bytes()
            instance = _post(node, content)
            assert other.file(instance) == content
    everything = images(first)
    assert len(everything) == 20
    assert images(second) == everything

    # each removes what the other has stored
    studies = first.orthanc.get_json("/studies")
    for node, study in zip(pair, studies, strict=True):
        node.orthanc.delete(f"/studies/{study}")
    wait_until(lambda: first.keys() == [], 60, "the bucket is empty")
    assert first.instances() == second.instances() == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("end", [Orthanc.kill, Orthanc.stop], ids=["killed", "stopped"])
def test_what_a_node_owed_to_s3_at_its_end_is_there_when_it_comes_back(
    pair: Pair, ten: list[Path], thumbnails: list[Path], end: Callable[[Orthanc], object]
) -> None:
    first, second = pair
    uploaded = [_post(second, path.read_bytes()) for path in thumbnails]
    second.wait_until_uploaded()
    assert first.gate
    first.gate.refuse()
    owed = {_post(first, path.read_bytes()): path.read_bytes() for path in ten}
    assert len(first.pending()) >= 10
    end(first.orthanc)
    first.wait_for_the_end()

    # the other goes on, and says of what it cannot have that it cannot have it
    for instance, path in zip(uploaded, thumbnails, strict=True):
        assert second.file(instance) == path.read_bytes()
    with pytest.raises(HTTPError):
        second.file(next(iter(owed)))
    assert set(owed) <= set(second.instances())

    first.gate.open()
    first.start()
    first.wait_until_uploaded()
    assert {instance: second.file(instance) for instance in owed} == owed
    assert images(first) == images(second)
    assert len(images(first)) == 20


def _post(node: Node, content: bytes) -> str:
    instance: str = json.loads(node.orthanc.post("/instances", content))["ID"]
    return instance
