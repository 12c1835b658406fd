"""The connection to PostgreSQL breaks in a commit that the server carries out: what Orthanc gives up is kept."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from urllib.error import HTTPError

import pytest

from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from tests.fakes.commit_cutter import CommitCutter
from tests.integration.harness import Node, NodeMaker
from tests.integration.test_removal_check import store, tombstones
from tests.servers.postgresql import INDEX_PLUGIN, PostgreSql, PostgreSqlUnavailable

DEADLINE = 60.0  # seconds
NOTES = b"notes of a user"


@pytest.fixture
def cutter() -> Iterator[CommitCutter]:
    try:
        server = PostgreSql()
    except PostgreSqlUnavailable as reason:
        pytest.skip(str(reason))
    cutter = CommitCutter(free_port(), ("127.0.0.1", server.port))
    cutter.options = {**server.options, "Port": cutter.port}
    yield cutter
    cutter.close()
    server.stop()


@pytest.fixture
def node(make_node: NodeMaker, cutter: CommitCutter) -> Node:
    node = make_node(gated=True)
    node.orthanc.settings["Plugins"].append(str(INDEX_PLUGIN))
    node.orthanc.settings["PostgreSQL"] = cutter.options
    return node.start()


def in_hexadecimal(content: bytes) -> bytes:
    """Its MD5, which is among the values of its row."""
    return md5(content, usedforsecurity=False).hexdigest().encode()


def cancelled(node: Node) -> int:
    return int(node.status()["Storage"]["Counters"]["removals_cancelled"])


def test_an_image_whose_commit_was_carried_out_is_kept(
    node: Node, cutter: CommitCutter, thumbnails: list[Path]
) -> None:
    content = thumbnails[0].read_bytes()
    cutter.cut(in_hexadecimal(content))
    with pytest.raises(HTTPError):
        store(node, thumbnails[0])
    assert cutter.was_cut.wait(DEADLINE)
    (instance,) = node.instances()
    assert store(node, thumbnails[0]) == instance, "Orthanc has it already, and says so"
    wait_until(lambda: not tombstones(node) and not node.pending(), DEADLINE, "every removal is decided")
    assert node.file(instance) == content
    node.stop()
    node.set_aside("spool", "cache")
    node.start()
    assert node.file(instance) == content


@pytest.mark.parametrize("delay", [0.0, 3.0])
def test_an_attachment_whose_commit_was_carried_out_is_kept(
    node: Node, cutter: CommitCutter, thumbnails: list[Path], delay: float
) -> None:
    """Of which nobody can say whose it is without reading the whole index."""
    path = f"/instances/{store(node, thumbnails[0])}/attachments/1024"
    node.wait_until_uploaded()
    cutter.cut(in_hexadecimal(NOTES), delay)
    with pytest.raises(HTTPError):
        node.orthanc.put(path, NOTES)
    assert cutter.was_cut.wait(DEADLINE)
    assert tombstones(node), "Orthanc has given it up"
    wait_until(lambda: cancelled(node) == 1, DEADLINE, "the removal is cancelled")
    node.wait_until_uploaded()
    assert node.orthanc.get(f"{path}/data") == NOTES

    # a real removal is carried out as ever
    before = len(node.keys())
    node.orthanc.delete(path)
    wait_until(lambda: len(node.keys()) == before - 1, DEADLINE, "the object is deleted")
