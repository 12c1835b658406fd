"""Where Orthanc reads ranges (storage area 3), S3 is asked for what was asked for, and no more."""

from __future__ import annotations

import random
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError

import pytest
from pydicom import dcmread

from backend.custom_data import CHUNK
from tests.integration.harness import NEWER, OLDER, Node, NodeMaker

LARGE = 500_000_000  # bytes
RANGE = (300_000_000, 300_002_048)


def reads_ranges(node: Node) -> bool:
    return bool(node.status()["Storage"]["StorageArea"] == 3)


@pytest.fixture
def far(make_node: NodeMaker) -> Node:
    """A node with a gate that counts what S3 sends."""
    return make_node(gated=True).start()


def store_and_forget(node: Node, instance: str, content: bytes) -> str:
    """Attach `content` to the instance and leave S3 with the only copy; returns the path of the attachment."""
    path = f"/instances/{instance}/attachments/1024"
    node.orthanc.put(path, content)
    node.wait_until_uploaded(200)  # half a gigabyte takes this S3 server a while on a busy machine
    node.stop()
    node.set_aside("cache", "spool")
    node.start()
    return path


def everything(node: Node) -> dict[str, bytes]:
    """SOPInstanceUID → pixel data of every instance, read from Orthanc."""
    return pixels(node.file(instance) for instance in node.instances())


def contents(paths: list[Path]) -> dict[str, bytes]:
    """The same of files."""
    return pixels(path.read_bytes() for path in paths)


def pixels(files: Iterable[bytes]) -> dict[str, bytes]:
    return {image.SOPInstanceUID: image.PixelData for image in (dcmread(BytesIO(content)) for content in files)}


def stored_instance(node: Node, file: Path) -> str:
    node.orthanc.post("/instances", file.read_bytes())
    (instance,) = node.instances()
    return instance


@pytest.mark.timeout(400)
def test_two_kilobytes_of_half_a_gigabyte_move_less_than_a_megabyte(far: Node, thumbnails: list[Path]) -> None:
    if not reads_ranges(far):
        pytest.skip("this Orthanc cannot read ranges of a storage area in Python")
    content = random.randbytes(1_000_000) * (LARGE // 1_000_000)
    path = store_and_forget(far, stored_instance(far, thumbnails[0]), content)
    assert far.gate
    before = far.gate.carried_back
    start, end = RANGE
    assert far.orthanc.get(f"{path}/data", {"Range": f"bytes={start}-{end - 1}"}) == content[start:end]
    assert 0 < far.gate.carried_back - before < 1_000_000
    counters = far.status()["Storage"]["Counters"]
    assert counters["reads_range"] == 1
    assert far.status()["Storage"]["Cache"]["Count"] == 0


@pytest.mark.timeout(120)
def test_a_range_whose_object_was_altered_is_refused(far: Node, thumbnails: list[Path]) -> None:
    if not reads_ranges(far):
        pytest.skip("this Orthanc cannot read ranges of a storage area in Python")
    content = random.randbytes(20 * CHUNK)
    path = store_and_forget(far, stored_instance(far, thumbnails[0]), content)
    (key,) = (name for name in far.s3.keys(far.bucket) if name.endswith(".unk"))
    far.s3.replace(far.bucket, key, content[:-1] + bytes([content[-1] ^ 1]))
    good = {"Range": f"bytes={5 * CHUNK}-{5 * CHUNK + 9}"}
    assert far.orthanc.get(f"{path}/data", good) == content[5 * CHUNK : 5 * CHUNK + 10]
    with pytest.raises(HTTPError) as refused:
        far.orthanc.get(f"{path}/data", {"Range": f"bytes={20 * CHUNK - 20}-{20 * CHUNK - 10}"})
    assert b'"OrthancStatus" : 20' in refused.value.read()


@pytest.mark.timeout(120)
def test_a_range_of_an_encrypted_object_moves_only_its_chunks(
    make_node: NodeMaker, thumbnails: list[Path], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    key.chmod(0o400)
    section = {"Enabled": True, "CurrentKey": "a", "Keys": {"a": str(key)}}
    far = make_node({"Isen": {"Storage": {"Encryption": section}}}, gated=True).start()
    if not reads_ranges(far):
        pytest.skip("this Orthanc cannot read ranges of a storage area in Python")
    content = random.randbytes(20 * CHUNK)
    path = store_and_forget(far, stored_instance(far, thumbnails[0]), content)
    assert far.gate
    before = far.gate.carried_back
    start, end = 7 * CHUNK + 5, 7 * CHUNK + 500
    assert far.orthanc.get(f"{path}/data", {"Range": f"bytes={start}-{end - 1}"}) == content[start:end]
    assert CHUNK < far.gate.carried_back - before < 2 * CHUNK
    (stored,) = (name for name in far.s3.keys(far.bucket) if name.endswith(".unk"))
    body = far.s3.object(far.bucket, stored)
    far.s3.replace(far.bucket, stored, body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(HTTPError) as refused:
        far.orthanc.get(f"{path}/data", {"Range": f"bytes={20 * CHUNK - 20}-{20 * CHUNK - 10}"})
    assert b'"OrthancStatus" : 20' in refused.value.read()


@pytest.mark.timeout(120)
def test_what_was_stored_before_the_upgrade_is_read_after_it_and_back(
    make_node: NodeMaker, ten: list[Path], thumbnails: list[Path]
) -> None:
    """An index and a bucket that the older storage area has filled; and what the newer one adds, for the older."""
    node = make_node({"Isen": {"Storage": {"MaximumCacheSizeMB": 0}}})
    both = [*ten, *thumbnails]
    node.orthanc.settings.update(OLDER)
    node.start()
    assert not reads_ranges(node)
    node.peer.send(*ten)
    node.wait_until_uploaded()
    node.stop()

    node.orthanc.settings.update(NEWER)
    node.start()
    assert everything(node) == contents(ten)
    node.peer.send(*thumbnails)
    node.wait_until_uploaded()
    assert everything(node) == contents(both)
    node.stop()

    node.orthanc.settings.update(OLDER)
    node.start()
    assert everything(node) == contents(both)
