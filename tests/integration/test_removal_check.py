"""Nothing goes that the index refers to: after a commit that only seemed to fail, after an index was restored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker

DEADLINE = 60.0  # seconds


def store(node: Node, path: Path) -> str:
    """Orthanc's id of the stored image."""
    return str(json.loads(node.orthanc.post("/instances", path.read_bytes()))["ID"])


def tombstones(node: Node) -> list[Path]:
    return list((node.folder / "spool" / "tombstones").iterdir())


@pytest.mark.parametrize("where", ["pending", "bucket"])
def test_what_orthanc_removes_although_it_refers_to_it_is_kept(
    make_node: NodeMaker, thumbnails: list[Path], where: str
) -> None:
    """As if the connection to a database server had broken in a commit that the server carried out."""
    node = make_node(gated=True).start()
    assert node.gate
    if where == "pending":
        node.gate.refuse()
    kept = store(node, thumbnails[0])
    if where == "bucket":
        node.wait_until_uploaded()
        names = node.keys()
    else:
        names = node.pending()
    for name in names:
        (node.folder / "spool" / "tombstones" / name).touch()

    def cancelled() -> int:
        return int(node.status()["Storage"]["Counters"]["removals_cancelled"])

    wait_until(lambda: cancelled() == len(names), DEADLINE, "the removals are cancelled")
    assert tombstones(node) == []
    node.gate.open()
    node.wait_until_uploaded()
    assert {*node.keys()} >= {*names}, "beside a canary, perhaps"
    assert node.file(kept) == thumbnails[0].read_bytes()

    # a real removal is carried out as ever
    node.orthanc.delete(f"/instances/{kept}")
    wait_until(lambda: node.keys() == [], DEADLINE, "the objects are deleted")


def test_an_index_restored_from_a_backup_keeps_what_was_removed_since(
    make_node: NodeMaker, thumbnails: list[Path]
) -> None:
    node = make_node(gated=True).start()
    assert node.gate
    kept, gone = store(node, thumbnails[0]), store(node, thumbnails[1])
    node.orthanc.put(f"/instances/{kept}/attachments/1024", b"notes of a user")
    node.wait_until_uploaded()
    node.stop()
    backup = node.folder / "backup"
    shutil.copytree(node.folder / "index", backup)
    node.start()
    node.gate.refuse()  # so that the removals still wait when the backup is restored
    node.orthanc.delete(f"/instances/{kept}")
    node.stop()
    shutil.rmtree(node.folder / "index")
    backup.rename(node.folder / "index")
    shutil.rmtree(node.folder / "cache")
    shutil.rmtree(node.folder / "spool" / "uploaded")
    node.start()
    assert tombstones(node)
    node.gate.open()
    wait_until(lambda: tombstones(node) == [], DEADLINE, "every removal is decided")
    assert node.file(kept) == thumbnails[0].read_bytes()
    assert node.file(gone) == thumbnails[1].read_bytes()
    assert node.orthanc.get(f"/instances/{kept}/attachments/1024/data") == b"notes of a user"


@pytest.mark.parametrize("durability", ["Spool", "ObjectStore"])
def test_an_image_that_orthanc_has_already_takes_the_place_of_its_object_that_is_lost(
    make_node: NodeMaker, thumbnails: list[Path], durability: str
) -> None:
    """Orthanc acknowledges what it is sent, because its index knows it, and drops it."""
    node = make_node({"Isen": {"Storage": {"Durability": durability}}}).start()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    node.wait_until_uploaded()
    images = {instance: node.file(instance) for instance in node.instances()}
    node.stop()
    for key in {*node.keys()}:
        node.s3.delete(node.bucket, key)
    node.set_aside("spool", "cache")
    node.start()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)

    def mended() -> int:
        return int(node.status()["Storage"]["Counters"]["mended"])

    expected = len(images) * len(node.attachments_of_an_image())
    wait_until(lambda: mended() == expected and tombstones(node) == [], DEADLINE, "every object is mended")
    assert {instance: node.file(instance) for instance in node.instances()} == images
    assert len(node.keys()) == expected
