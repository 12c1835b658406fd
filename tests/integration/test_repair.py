"""`isen repair` on a real archive: faults made on purpose are healed, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from backend.stack.orthanc import merged
from backend.stack.processes import wait_until
from tests.integration.archive import (
    NOW,
    ROOT,
    WITHOUT_DICOM,
    Bucket,
    found,
    isen,
    key_of,
    orphan_key,
    run_isen,
    store_images,
)
from tests.integration.harness import Node, NodeMaker, sop_instance_uid

pytestmark = pytest.mark.timeout(240)
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # the tag, little endian


@pytest.fixture
def node(make_node: NodeMaker) -> Node:
    return make_node({**WITHOUT_DICOM, "MaximumStorageCacheSize": 0}).start()


def test_repair_changes_nothing_without_apply_and_heals_with_it(node: Node, tmp_path: Path) -> None:
    stored = store_images(node, tmp_path / "images", 30)
    bucket, instances = Bucket(node), list(stored)
    keys = [key_of(node, instance) for instance in instances]
    bucket.delete(keys[0])
    bucket.put(keys[1], b"short")
    bucket.put(keys[2], bytes(len(bucket.get(keys[2]))))
    bucket.delete(keys[3])
    (node.folder / "cache" / "objects" / keys[3][:2] / keys[3]).unlink()  # nobody has a copy
    (node.folder / "spool" / "uploaded" / keys[3]).unlink()
    duplicate, head = orphan_key(), orphan_key(1, ".dcm.head")
    bucket.put(duplicate, bucket.get(keys[5]))
    bucket.put(head, bucket.get(keys[5]).partition(PIXEL_DATA)[0])
    junk = orphan_key(2, ".unk")
    bucket.put(junk, b"who knows")
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=keys[6])
    before = {key: bucket.get(key) for key in bucket.list()}

    code, plan = isen(node, "repair", *NOW)
    assert code == 1
    assert {key: bucket.get(key) for key in bucket.list()} == before
    assert {action["Key"]: action["Deed"] for action in plan["Actions"]} == {
        keys[0]: "upload",
        keys[1]: "upload",
        keys[2]: "upload",
        keys[3]: "nothing",
        duplicate: "delete",
        head: "delete",
        junk: "nothing",
        keys[6]: "abort",
    }
    code, document = isen(node, "repair", *NOW, "--apply")
    assert code == 1
    assert {action["Key"] for action in document["Actions"] if action["Outcome"] != "done"} == {keys[3], junk}
    for number in range(3):
        assert bucket.get(keys[number]) == stored[instances[number]].read_bytes()
    assert duplicate not in bucket.list()
    assert head not in bucket.list()
    assert junk in bucket.list()
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert found(document) == {keys[3]: "missing", junk: "orphaned"}
    assert isen(node, "repair", *NOW, "--apply", "--delete-unknown")[0] == 1
    assert found(isen(node, "verify", *NOW)[1]) == {keys[3]: "missing"}


def test_lost_objects_come_back_from_a_folder_and_from_another_bucket(node: Node, tmp_path: Path) -> None:
    """Each with a layout of its own; only with the bytes that Orthanc's index knows."""
    stored = store_images(node, tmp_path / "images", 6)
    bucket, keys = Bucket(node), [key_of(node, instance) for instance in stored]
    backup, other = tmp_path / "backup", f"{node.bucket}-copy"
    bucket.client.create_bucket(Bucket=other)
    for number, key in enumerate(keys):
        content = bucket.get(key) if number < 4 else b"altered"
        if number % 2:
            uuid = key.removesuffix(".dcm")
            place = f"old/{uuid[:2]}/{uuid[2:4]}/{uuid}"
            bucket.client.put_object(Bucket=other, Key=place, Body=content)
        else:
            (backup / key[:2] / key[2:4]).mkdir(parents=True, exist_ok=True)
            (backup / key[:2] / key[2:4] / key.removesuffix(".dcm")).write_bytes(content)
        bucket.delete(key)
        for copy in (f"cache/objects/{key[:2]}/{key}", f"spool/uploaded/{key}"):
            (node.folder / copy).unlink(missing_ok=True)
    settings = tmp_path / "other.json"
    changed = merged(
        node.orthanc.settings,
        {"Isen": {"Storage": {"BucketName": other, "RootPath": "old", "StorageStructure": "legacy"}}},
    )
    settings.write_text(json.dumps(changed))
    sources = ["--from-directory", str(backup), "--from-bucket", str(settings)]
    code, plan = isen(node, "repair", *NOW, *sources)
    assert (code, [action["Deed"] for action in plan["Actions"]].count("upload")) == (1, 4)
    code, document = isen(node, "repair", *NOW, *sources, "--apply")
    assert code == 1
    left = {action["Key"] for action in document["Actions"] if action["Outcome"] != "done"}
    assert left == {keys[4], keys[5]}
    for key, path in list(zip(keys, stored.values(), strict=True))[:4]:
        assert bucket.get(key) == path.read_bytes()
    assert found(isen(node, "verify", *NOW, "--read-data")[1]) == {keys[4]: "missing", keys[5]: "missing"}
    settings.write_text(settings.read_text().replace(node.s3.url, "http://127.0.0.1:1"))
    assert isen_fails(node, "repair", *NOW, *sources) == 2


def isen_fails(node: Node, command: str, *options: str) -> int:
    """Exit code of a tool that could not do its work."""
    return run_isen(command, str(node.folder / "orthanc.json"), *options).returncode


def test_repair_refuses_to_delete_more_than_the_share(node: Node, tmp_path: Path) -> None:
    stored = store_images(node, tmp_path / "images", 4)
    bucket = Bucket(node)
    key = key_of(node, next(iter(stored)))
    orphans = {orphan_key(number) for number in range(4)}
    for orphan in orphans:
        bucket.put(orphan, bucket.get(key))
    code, document = isen(node, "repair", *NOW, "--apply")
    assert code == 1
    assert f"4 of {4 + 4 * len(node.attachments_of_an_image())} objects" in document["Refusal"]
    assert orphans <= bucket.list()
    assert isen(node, "repair", *NOW, "--apply", "--maximum-share", "50")[0] == 0
    assert not orphans & bucket.list()
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0


def test_an_empty_index_adopts_the_bucket_and_only_then_lets_go_of_the_old_objects(node: Node, tmp_path: Path) -> None:
    """Killed in the middle it is run again; no image is ever without an object."""
    stored = store_images(node, tmp_path / "images", 40)
    contents = {sop_instance_uid(path.read_bytes()): path.read_bytes() for path in stored.values()}
    node.stop()
    node.set_aside("index", "spool", "cache")
    node.start()
    # Without --adopt, nothing that might be the only copy is deleted.
    code, document = isen(node, "repair", *NOW, "--apply", "--maximum-share", "100")
    assert code == 1
    assert node.images_in_bucket() == contents

    arguments = [sys.executable, "-m", "backend.cli", "repair", str(node.folder / "orthanc.json"), *NOW]
    adopting = subprocess.Popen([*arguments, "--adopt", "--apply", "--per-second", "60"], cwd=ROOT)
    wait_until(lambda: len(node.instances()) > 5, 60, "some images were adopted")
    adopting.send_signal(signal.SIGKILL)
    adopting.wait()
    assert len(node.instances()) < 40
    isen(node, "repair", *NOW, "--adopt", "--apply", "--maximum-share", "100")
    assert sorted(node.instances()) == sorted(stored)
    node.wait_until_uploaded()
    assert node.images_in_bucket() == contents
    code, document = isen(node, "repair", *NOW, "--apply", "--maximum-share", "100")
    assert code == 0, document
    assert len(node.keys()) == 40 * len(node.attachments_of_an_image())
    assert node.images_in_bucket() == contents
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0


def test_an_archive_with_storage_compression_is_understood(make_node: NodeMaker, tmp_path: Path) -> None:
    node = make_node({**WITHOUT_DICOM, "StorageCompression": True}).start()
    stored = store_images(node, tmp_path / "images", 3)
    bucket, (first, second, _) = Bucket(node), stored
    assert bucket.get(key_of(node, first))[128:132] != b"DICM"
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0
    orphan = orphan_key()
    bucket.put(orphan, bucket.get(key_of(node, first)))
    bucket.delete(key_of(node, second))
    assert isen(node, "repair", *NOW, "--apply", "--maximum-share", "50")[0] == 0
    assert orphan not in bucket.list()
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0


def test_images_whose_new_objects_are_not_in_the_bucket_keep_their_old_ones(
    make_node: NodeMaker, tmp_path: Path
) -> None:
    node = make_node(WITHOUT_DICOM, gated=True).start()
    stored = store_images(node, tmp_path / "images", 3)
    old = set(node.keys())
    node.stop()
    node.set_aside("index", "spool", "cache")
    node.start()
    assert node.gate
    node.gate.refuse()
    for path in stored.values():
        node.orthanc.post("/instances", path.read_bytes())
    settings = node.folder / "orthanc.json"
    settings.write_text(settings.read_text().replace(node.gate.url, node.s3.url))
    isen(node, "repair", *NOW, "--apply", "--maximum-share", "100")
    assert {key for key in old if key.endswith(".dcm")} <= set(node.keys())


def test_ending_a_tool_at_any_moment_does_no_harm(node: Node, tmp_path: Path) -> None:
    stored = store_images(node, tmp_path / "images", 20)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = [sys.executable, "-m", "backend.cli", "repair", str(node.folder / "orthanc.json"), *NOW, "--apply"]
    orphan = orphan_key()
    for moment, end in product((0.8, 1.4, 2.0), (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
        Bucket(node).put(orphan, b"junk")
        tool = subprocess.Popen(
            [*arguments, "--delete-unknown", "--read-data", "--per-second", "100"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moment)
        tool.send_signal(end)
        assert tool.wait(20) in (-end, 128 + end, 0, 1, 2)  # 130: typer's, before the tool has begun
        for folder in temporary.iterdir():  # the catalogue had not lost its name: it holds its tables and nothing else
            assert end == signal.SIGKILL
            assert sum(path.stat().st_size for path in folder.iterdir()) < 32 * 1024
            shutil.rmtree(folder)
    isen(node, "repair", *NOW, "--apply", "--delete-unknown")
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0
    assert {node.file(instance) for instance in stored} == {path.read_bytes() for path in stored.values()}
