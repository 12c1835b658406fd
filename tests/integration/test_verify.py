"""`isen verify` and `isen where` on a real archive: faults made on purpose are all found, and nothing else."""

from __future__ import annotations

import json
import threading
import urllib.request
from hashlib import sha256
from pathlib import Path

import pytest

from tests.fakes.images import write_series
from tests.integration.archive import (
    NOW,
    WITHOUT_DICOM,
    Bucket,
    found,
    isen,
    key_of,
    orphan_key,
    run_isen,
    store_images,
)
from tests.integration.harness import Node, NodeMaker

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def node(make_node: NodeMaker) -> Node:
    return make_node({**WITHOUT_DICOM, "MaximumStorageCacheSize": 0}).start()


def test_a_sound_archive_has_no_findings(node: Node, tmp_path: Path) -> None:
    store_images(node, tmp_path / "images", 5)
    study = node.orthanc.get_json("/studies")[0]
    url = f"{node.orthanc.url}/studies/{study}/attachments/1024"
    request = urllib.request.Request(url, b"a report", method="PUT")  # noqa: S310 - always http
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - always http
    node.wait_until_uploaded()
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert (code, document["Findings"]) == (0, [])
    expected = 5 * len(node.attachments_of_an_image()) + 1
    assert document["Counts"]["Attachments"] == document["Counts"]["Objects"] == document["Counts"]["Read"] == expected
    assert isen(node, "verify", *NOW, "--sample", "3")[1]["Counts"]["Read"] == 3


def test_every_fault_is_found_and_named_and_nothing_else(node: Node, tmp_path: Path) -> None:
    stored = store_images(node, tmp_path / "images", 8)
    bucket, instances = Bucket(node), list(stored)
    keys = [key_of(node, instance) for instance in instances]
    bucket.delete(keys[0])
    bucket.put(keys[1], bucket.get(keys[1])[:-10])
    content = bytearray(bucket.get(keys[2]))
    content[-1] ^= 1
    bucket.put(keys[2], bytes(content), Metadata={"sha256": bucket.digest(keys[2])})
    content = bytearray(bucket.get(keys[3]))
    content[-2] ^= 1
    bucket.put(
        keys[3], bytes(content), Metadata={"sha256": sha256(content).hexdigest()}
    )  # sound in itself, but another's
    orphan = orphan_key()
    bucket.put(orphan, bucket.get(keys[5]))
    bucket.put("somebody/else.txt", b"left alone")
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=keys[6])
    expected = {
        keys[0]: "missing",
        keys[1]: "truncated",
        keys[2]: "corrupted",
        keys[3]: "corrupted",
        orphan: "orphaned",
        keys[6]: "stale-upload",
    }
    # the listing alone shows it all, as long as the server's ETag is an MD5; reading shows it in any case
    for options in ((), ("--read-data",)):
        code, document = isen(node, "verify", *NOW, *options)
        assert code == 1
        assert found(document) == expected
        assert document["Counts"]["Foreign"] == 1
    # what is young may be about to be indexed
    code, document = isen(node, "verify", "--settle", "0")
    assert "orphaned" not in found(document).values()
    assert document["Counts"]["Young"] == 1


def test_what_waits_in_the_spool_is_not_missing_and_what_is_being_removed_is_no_orphan(
    make_node: NodeMaker, tmp_path: Path
) -> None:
    changes = {"Isen": {"Dicom": {"Enabled": False}, "Storage": {"RemovalGracePeriod": 600}}}
    node = make_node(changes, gated=True).start()
    stored = store_images(node, tmp_path / "before", 3)
    assert node.gate
    node.gate.refuse()
    for path in write_series(tmp_path / "during", 2, side=64):
        node.orthanc.post("/instances", path.read_bytes())
    node.orthanc.delete(f"/instances/{next(iter(stored))}")
    settings = node.folder / "orthanc.json"
    settings.write_text(settings.read_text().replace(node.gate.url, node.s3.url))  # the tool sees S3, the node does not
    code, document = isen(node, "verify", *NOW)
    assert (code, document["Findings"]) == (0, [])
    of_each = len(node.attachments_of_an_image())
    assert document["Counts"]["Pending"] == 2 * of_each
    assert document["Counts"]["Removed"] == of_each


def test_a_busy_archive_raises_no_false_alarm(make_node: NodeMaker, tmp_path: Path) -> None:
    """Images come and go all the time while it is verified, again and again, with no grace period but for the index."""
    node = make_node(WITHOUT_DICOM).start()
    images = [path.read_bytes() for path in write_series(tmp_path / "images", 300, side=16)]
    store_images(node, tmp_path / "kept", 20)
    end = threading.Event()

    def work(share: list[bytes]) -> None:
        while not end.is_set():
            stored = [json.loads(node.orthanc.post("/instances", image))["ID"] for image in share]
            for instance in stored:
                node.orthanc.delete(f"/instances/{instance}")

    threads = [threading.Thread(target=work, args=(images[number::3],)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        seen = 0
        for _ in range(3):
            code, document = isen(node, "verify", "--grace-hours", "0.0005", "--settle", "3", "--read-data")
            assert (code, document["Findings"]) == (0, [])
            seen += document["Counts"]["Attachments"]
        assert seen > 3 * 20 * len(node.attachments_of_an_image())
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_where_names_every_place(node: Node, tmp_path: Path) -> None:
    (instance,) = store_images(node, tmp_path / "images", 1)
    code, document = isen(node, "where", instance)
    assert code == 0
    assert [entry["Path"].rpartition("/")[2] for entry in document] == node.attachments_of_an_image()
    key = key_of(node, instance)
    assert document[0]["Key"] == key
    assert document[0]["Size"] == document[0]["Object"]["Size"] == len(Bucket(node).get(key))
    assert document[0]["Object"]["ETag"] == document[0]["MD5"]
    assert document[0]["Object"]["SHA256"] == Bucket(node).digest(key)
    assert document[0]["Object"]["StorageClass"] == "STANDARD"
    assert [local["Place"] for local in document[0]["Local"]] == ["uploaded", "cache"]

    uuid = key.removesuffix(".dcm")
    code, (entry,) = isen(node, "where", uuid)
    assert (code, entry["Key"], entry["Object"]["Size"]) == (0, key, document[0]["Size"])

    Bucket(node).delete(key)
    assert isen(node, "where", uuid)[0] == 1


def test_what_cannot_be_found_out_is_told_from_a_finding(node: Node, tmp_path: Path) -> None:
    node.stop()

    settings = node.folder / "orthanc.json"
    refused = run_isen("verify", str(settings))
    assert refused.returncode == 2
    assert "is Orthanc running" in refused.stderr
    assert run_isen("where", str(settings), "nonsense").returncode == 2
    document = json.loads(settings.read_text())
    document["Isen"]["Storage"]["SpoolDirectory"] = str(tmp_path / "another machine")
    settings.write_text(json.dumps(document))
    refused = run_isen("verify", str(settings))
    assert refused.returncode == 2
    assert "run this on the machine with Orthanc's spool" in refused.stderr
    document["Isen"]["Storage"].pop("BucketName")
    settings.write_text(json.dumps(document))
    assert run_isen("verify", str(settings)).returncode == 78
