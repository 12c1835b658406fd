"""From Orthanc's native S3 plugin and back: its objects, laid out as it lays them out, over Orthanc's own index.

The native plugin itself is not installed: its keys are those of its source (Common/BaseStorage.cpp of version 2.5.4),
and its objects are the bytes that Orthanc hands to any storage, without metadata of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.stack.processes import wait_until
from tests.fakes.images import write_series
from tests.integration.archive import NOW, WITHOUT_DICOM, Bucket, isen
from tests.integration.harness import Node, NodeMaker

pytestmark = pytest.mark.timeout(240)
EXTENSIONS = {"dicom": ".dcm", "dicom-as-json": ".json", "dicom-until-pixel-data": ".dcm.head"}


def native_key(uuid: str, attachment: str, root_path: str, structure: str) -> str:
    """The native plugin's key of an attachment; user-defined ones are `.unk`."""
    flat = uuid + EXTENSIONS.get(attachment, ".unk")
    key = flat if structure == "flat" else f"{uuid[0:2]}/{uuid[2:4]}/{uuid}"
    return f"{root_path}/{key}" if root_path else key


def expected_keys(node: Node, root_path: str, structure: str) -> dict[str, str]:
    """Key → UUID of every attachment of Orthanc's index."""
    found = {}
    for instance in node.instances():
        for attachment in node.orthanc.get_json(f"/instances/{instance}/attachments"):
            info = node.orthanc.get_json(f"/instances/{instance}/attachments/{attachment}/info")
            found[native_key(info["Uuid"], attachment, root_path, structure)] = info["Uuid"]
    return found


def native_archive(node: Node, folder: Path, section: dict[str, Any], options: dict[str, Any]) -> dict[str, bytes]:
    """Have Orthanc fill its own storage area, and move it into the bucket as the native plugin would have stored it."""
    settings = node.orthanc.settings
    settings["AwsS3Storage"] = section
    del settings["Isen"]["Storage"]
    node.orthanc.settings = {**settings, "Plugins": [], "UserContentType": {"report": 1024}, "UserMetadata": {}}
    node.orthanc.start()
    images = {}
    for path in write_series(folder, 8, side=64):
        content = path.read_bytes()
        images[json.loads(node.orthanc.post("/instances", content))["ID"]] = content
    node.orthanc.put(f"/instances/{next(iter(images))}/attachments/report", b"a report of a user's")
    keys = expected_keys(node, options.get("RootPath", ""), options.get("StorageStructure", "flat"))
    node.orthanc.stop()
    bucket = Bucket(node)
    for key, uuid in keys.items():
        file = node.folder / "index" / uuid[:2] / uuid[2:4] / uuid
        bucket.put(key, file.read_bytes())
        file.unlink()
    node.orthanc.settings = {**settings, "UserContentType": {"report": 1024}}
    return images


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="flat"),
        pytest.param({"RootPath": "hospital/a", "UseTransferManager": True}, id="flat below a root"),
        pytest.param({"RootPath": "x", "StorageStructure": "legacy"}, id="legacy"),
    ],
)
def test_the_same_bucket_and_section_with_isen_in_place_of_the_native_plugin(
    make_node: NodeMaker, tmp_path: Path, options: dict[str, Any]
) -> None:
    node = make_node({**WITHOUT_DICOM, "MaximumStorageCacheSize": 0})
    node.s3.create_bucket(node.bucket)
    section = {
        "BucketName": node.bucket,
        "Region": "us-east-1",
        "AccessKey": "isen",
        "SecretKey": "made-up-and-not-verified",
        "Endpoint": node.s3.url,
        "VirtualAddressing": False,
        **options,
    }
    images = native_archive(node, tmp_path / "images", section, options)
    before = set(node.keys())
    section |= {"AllowVolatileSpool": True, "RemovalGracePeriod": 0}  # for tests; the native plugin ignores both
    node.start()
    assert {instance: node.file(instance) for instance in images} == images
    first = next(iter(images))
    assert node.orthanc.get(f"/instances/{first}/attachments/report/data") == b"a report of a user's"
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert (code, document["Findings"]) == (0, [])
    (found, *_) = isen(node, "where", first)[1]
    assert found["Key"] in before

    # what Isen stores is where the native plugin looks for it, and what it removes is gone for it too
    late = write_series(tmp_path / "late", 1, side=64)[0].read_bytes()
    images[json.loads(node.orthanc.post("/instances", late))["ID"]] = late
    node.orthanc.delete(f"/instances/{first}")
    del images[first]
    root, structure = options.get("RootPath", ""), options.get("StorageStructure", "flat")
    wait_until(lambda: set(node.keys()) == set(expected_keys(node, root, structure)), 30, "the bucket is the index")
    assert sorted(images) == sorted(node.instances())
