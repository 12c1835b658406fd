"""What arrives is in the bucket, byte for byte, and comes back from there alone; what is deleted leaves it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker, sop_instance_uid


def received(node: Node) -> dict[str, bytes]:
    """SOPInstanceUID → file, of every instance, as Orthanc hands it out."""
    with ThreadPoolExecutor(8) as pool:
        return {sop_instance_uid(content): content for content in pool.map(node.file, node.instances())}


def sent(folders: list[Path]) -> dict[str, bytes]:
    """SOPInstanceUID → pixel data that was sent."""
    files = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    return {sop_instance_uid(content): content for content in files}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("senders", [1, 4])
def test_five_hundred_images_arrive_survive_the_loss_of_this_machine_and_can_be_deleted(
    make_node: NodeMaker, five_hundred: list[Path], senders: int
) -> None:
    node = make_node().start()
    shares = [five_hundred] if senders == 1 else [[folder] for folder in five_hundred]
    with ThreadPoolExecutor(senders) as pool:
        answers = list(pool.map(lambda share: node.peer.send(*share), shares))
    assert sum(answer.sent for answer in answers) == 500, answers[0].output[-2000:]
    node.wait_until_uploaded()

    # every attachment is one object, and each image's object is what Orthanc hands out
    images = received(node)
    assert len(images) == 500
    assert node.images_in_bucket() == images
    originals = sent(five_hundred)
    pixels = 512 * 512 * 2
    assert {uid: content[-pixels:] for uid, content in images.items()} == {
        uid: content[-pixels:] for uid, content in originals.items()
    }

    # a new machine with the same index reads all of it from S3
    node.stop()
    node.set_aside("spool", "cache")
    node.start()
    assert received(node) == images

    # a deleted study leaves nothing behind, neither there nor here
    (study,) = node.orthanc.get_json("/studies")
    node.orthanc.delete(f"/studies/{study}")
    wait_until(lambda: node.keys() == [], 60, "the bucket is empty")
    assert list((node.folder / "cache").rglob("*.dcm*")) == []


def test_every_attachment_of_an_instance_is_an_object_named_after_its_uuid(node: Node, thumbnails: list[Path]) -> None:
    """The keys of Orthanc's native S3 plugin, so that both can read one bucket."""
    before = set(node.keys())
    node.orthanc.post("/instances", thumbnails[0].read_bytes())
    node.wait_until_uploaded()
    (instance,) = node.instances()
    # 1.10.1 adds the head of the file, because a storage area of its kind cannot read ranges
    names = node.orthanc.get_json(f"/instances/{instance}/attachments")
    assert sorted(Path(key).suffixes[-1] for key in set(node.keys()) - before) == sorted(
        {"dicom": ".dcm", "dicom-until-pixel-data": ".head"}[name] for name in names
    )


def test_legacy_keys_and_a_root_path(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    storage = {"RootPath": "hospital/ct", "StorageStructure": "legacy"}
    node = make_node({"Isen": {"Storage": storage}}).start()
    node.orthanc.post("/instances", thumbnails[0].read_bytes())
    node.wait_until_uploaded()
    keys = node.keys()
    assert keys
    for key in keys:
        assert key.startswith("hospital/ct/")
        first, second, uuid = key.removeprefix("hospital/ct/").split("/")
        assert (first, second) == (uuid[0:2], uuid[2:4])
    (instance,) = node.instances()
    assert node.file(instance) == thumbnails[0].read_bytes()


def test_the_section_of_the_native_plugin_is_used_if_ours_is_absent(
    make_node: NodeMaker, thumbnails: list[Path]
) -> None:
    """Moving from the native plugin is a change of one line, and back."""
    node = make_node()
    node.orthanc.settings["AwsS3Storage"] = {
        name: value
        for name, value in node.orthanc.settings["Isen"].pop("Storage").items()
        if name
        in ("BucketName", "Region", "Endpoint", "AccessKey", "SecretKey", "VirtualAddressing", "AllowVolatileSpool")
    }
    node.s3.create_bucket(node.bucket)
    node.start()
    node.orthanc.post("/instances", thumbnails[0].read_bytes())
    wait_until(lambda: node.images_in_bucket().values(), 20, "the image is in the bucket")
    assert list(node.images_in_bucket().values()) == [thumbnails[0].read_bytes()]


def test_a_cache_smaller_than_the_images_never_grows_beyond_its_limit(make_node: NodeMaker, ten: list[Path]) -> None:
    node = make_node({"MaximumStorageCacheSize": 1, "Isen": {"Storage": {"MaximumCacheSizeMB": 2}}}).start()
    node.peer.send(*ten)
    node.wait_until_uploaded()
    for _ in range(2):
        for instance in node.instances():
            node.file(instance)
            cached = sum(path.stat().st_size for path in (node.folder / "cache").rglob("*.dcm*") if path.is_file())
            assert cached <= 2 * 1024 * 1024
    assert node.images_in_bucket().keys() == {sop_instance_uid(path.read_bytes()) for path in ten}
