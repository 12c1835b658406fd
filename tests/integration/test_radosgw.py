"""The archive on Ceph's radosgw, which verifies signatures and bytes, unlike the S3 server of the other tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.stack.orthanc import NotStarted
from backend.stack.processes import wait_until
from tests.integration.archive import NOW, WITHOUT_DICOM, isen, run_isen
from tests.integration.conftest import running
from tests.integration.harness import Node
from tests.servers.radosgw import ACCESS_KEY, SECRET_KEY, Radosgw

pytestmark = pytest.mark.timeout(500)  # its root file system is made once


@pytest.fixture
def node(radosgw: Radosgw, tmp_path: Path) -> Node:
    storage = {"AccessKey": ACCESS_KEY, "SecretKey": SECRET_KEY}
    changes = {"Isen": {**WITHOUT_DICOM["Isen"], "Storage": storage}}
    return Node(tmp_path, radosgw, changes)  # type: ignore[arg-type]  # the same attributes as S3Server


def test_images_are_stored_read_back_verified_and_deleted(node: Node, ten: list[Path]) -> None:
    running.append(node)
    try:
        node.start()
        for path in ten:
            node.orthanc.post("/instances", path.read_bytes())
        node.wait_until_uploaded()
        images = {path.read_bytes() for path in ten}
        assert set(node.images_in_bucket().values()) == images
        node.stop()
        node.set_aside("spool", "cache")
        node.start()
        assert {node.file(instance) for instance in node.instances()} == images
        code, document = isen(node, "verify", *NOW, "--read-data")
        objects = len(ten) * len(node.attachments_of_an_image())
        assert (code, document["Findings"], document["Counts"]["Read"]) == (0, [], objects)

        (study,) = node.orthanc.get_json("/studies")
        node.orthanc.delete(f"/studies/{study}")
        wait_until(lambda: node.keys() == [], 30, "the bucket is empty")
    finally:
        running.remove(node)
        node.close()


def test_a_wrong_secret_key_stops_the_start_with_a_sentence(node: Node) -> None:
    node.orthanc.settings["Isen"]["Storage"]["SecretKey"] = "wrong"
    with pytest.raises(NotStarted, match="SignatureDoesNotMatch") as refused:
        node.start()
    assert "Isen cannot start: Isen.Storage" in str(refused.value)
    checked = run_isen("check", str(node.folder / "orthanc.json"), "--json")
    assert checked.returncode == 1
    assert "SignatureDoesNotMatch" in checked.stdout
