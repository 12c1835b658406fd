"""The archive on Ceph's radosgw and on SeaweedFS, which verify signatures, unlike the S3 server of the other tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.stack.orthanc import NotStarted
from backend.stack.processes import wait_until
from tests.fakes.images import write_series
from tests.integration.archive import NOW, WITHOUT_DICOM, isen, run_isen
from tests.integration.conftest import running
from tests.integration.harness import Node
from tests.servers.real_s3 import ACCESS_KEY, SECRET_KEY, RealS3
from tests.servers.seaweedfs import SeaweedFS

pytestmark = pytest.mark.timeout(500)  # radosgw's root file system is made once


@pytest.fixture(params=["radosgw", "seaweedfs"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    server: RealS3 = request.getfixturevalue(request.param)
    storage = {"AccessKey": ACCESS_KEY, "SecretKey": SECRET_KEY, "MultipartThresholdMB": 5}
    changes = {"Isen": {**WITHOUT_DICOM["Isen"], "Storage": storage}}
    made = Node(tmp_path, server, changes)  # type: ignore[arg-type]  # the same attributes as S3Server
    running.append(made)
    yield made
    running.remove(made)
    made.close()


def posted(node: Node, paths: list[Path]) -> set[bytes]:
    """Store them; their contents."""
    for path in paths:
        node.orthanc.post("/instances", path.read_bytes())
    return {path.read_bytes() for path in paths}


def read_from_s3(node: Node) -> set[bytes]:
    """The files of all instances, after everything local was lost."""
    node.stop()
    node.set_aside("spool", "cache")
    node.start()
    return {node.file(instance) for instance in node.instances()}


def test_images_are_stored_read_back_verified_and_deleted(node: Node, ten: list[Path]) -> None:
    node.start()
    images = posted(node, ten)
    node.wait_until_uploaded()
    assert set(node.images_in_bucket().values()) == images
    assert read_from_s3(node) == images
    code, document = isen(node, "verify", *NOW, "--read-data")
    objects = len(ten) * len(node.attachments_of_an_image())
    assert (code, document["Findings"], document["Counts"]["Read"]) == (0, [], objects)

    (study,) = node.orthanc.get_json("/studies")
    node.orthanc.delete(f"/studies/{study}")
    wait_until(lambda: node.keys() == [], 30, "the bucket is empty")


@pytest.mark.parametrize("node", ["seaweedfs"], indirect=True)
def test_a_large_image_goes_in_parts_and_comes_back(node: Node, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    node.start()
    images = posted(node, write_series(tmp_path / "large", 1, side=2900))  # 16 MB
    node.wait_until_uploaded()
    (etag,) = (entry.etag for entry in seaweedfs.store(node.bucket).list("") if entry.key.endswith(".dcm"))
    assert int(etag.partition("-")[2]) > 1  # the number of parts
    assert read_from_s3(node) == images


@pytest.mark.parametrize("node", ["seaweedfs"], indirect=True)
def test_a_server_that_dies_in_the_middle_gets_all_once_it_is_back(
    node: Node, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    node.start()
    images = posted(node, write_series(tmp_path / "before", 20))
    wait_until(lambda: len(node.pending()) < 2 * len(images), 30, "uploads have begun")
    seaweedfs.kill()
    try:
        images |= posted(node, write_series(tmp_path / "while", 5))
        node.wait_for_object_store("Unreachable")
    finally:
        seaweedfs.start()
    node.wait_until_uploaded()
    assert read_from_s3(node) == images
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0


def test_a_wrong_secret_key_stops_the_start_with_a_sentence(node: Node) -> None:
    node.orthanc.settings["Isen"]["Storage"]["SecretKey"] = "wrong"
    with pytest.raises(NotStarted, match="SignatureDoesNotMatch") as refused:
        node.start()
    assert "Isen cannot start: Isen.Storage" in str(refused.value)
    checked = run_isen("check", str(node.folder / "orthanc.json"), "--json")
    assert checked.returncode == 1
    assert "SignatureDoesNotMatch" in checked.stdout
