"""`isen migrate`: an archive moves from Orthanc's own storage area to Isen and back while Orthanc works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backend.stack.processes import wait_until
from tests.fakes.images import write_series
from tests.integration.archive import NOW, ROOT, WITHOUT_DICOM, Bucket, isen
from tests.integration.harness import Node, NodeMaker

pytestmark = pytest.mark.timeout(240)


def without_isen(node: Node) -> None:
    """Have Orthanc use its own storage area from its next start on."""
    node.orthanc.settings = {**node.orthanc.settings, "Plugins": []}


def files(node: Node) -> dict[str, bytes]:
    return {instance: node.file(instance) for instance in node.instances()}


def attachments(node: Node) -> int:
    """Of all instances; those that came while the storage area was Isen's may have one more."""
    return sum(len(node.orthanc.get_json(f"/instances/{instance}/attachments")) for instance in node.instances())


def test_there_and_back_again(make_node: NodeMaker, tmp_path: Path) -> None:  # noqa: PLR0915 - one journey
    """No image is ever without a copy, and a run that was killed goes on where it ended."""
    node = make_node(WITHOUT_DICOM)
    node.s3.create_bucket(node.bucket)
    with_isen = node.orthanc.settings
    folder = node.folder / "index"  # StorageDirectory of this configuration
    without_isen(node)
    node.orthanc.start()
    for path in write_series(tmp_path / "images", 30, side=64):
        node.orthanc.post("/instances", path.read_bytes())
    images = files(node)
    assert len(images) == 30
    assert node.keys() == []

    arguments = ["--storage-directory", str(folder)]
    command = [sys.executable, "-m", "backend.cli", "migrate", str(node.folder / "orthanc.json"), *arguments]
    migrating = subprocess.Popen([*command, "--parallel", "1", "--per-second", "100"], cwd=ROOT)
    wait_until(lambda: len(node.keys()) > 5, 60, "some attachments were copied")
    migrating.send_signal(signal.SIGKILL)
    migrating.wait()
    there_already = len(node.keys())
    node.orthanc.post("/instances", write_series(tmp_path / "late", 1, side=64)[0].read_bytes())
    images = files(node)

    # a file that has rotted is not copied, and told
    rotten = max(folder.glob("??/??/*"), key=lambda path: path.stat().st_mtime)
    sound = rotten.read_bytes()
    rotten.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    code, document = isen(node, "migrate", *arguments)
    assert code == 1
    assert [failure["Attachment"].partition(".")[0] for failure in document["Failed"]] == [rotten.name]
    rotten.write_bytes(sound)
    code, document = isen(node, "migrate", *arguments)
    assert (code, document["Failed"], document["Counts"]["uploaded"]) == (0, [], 1)
    assert document["Counts"]["present"] >= there_already
    assert isen(node, "migrate", *arguments)[1]["Counts"] == {"present": attachments(node)}

    node.stop()
    aside = node.folder / "aside"
    aside.mkdir()
    for entry in folder.iterdir():
        if entry.is_dir():
            entry.rename(aside / entry.name)
    node.orthanc.settings = with_isen
    node.start()
    assert files(node) == images
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0
    node.orthanc.post("/instances", write_series(tmp_path / "on S3", 1, side=64)[0].read_bytes())
    images = files(node)

    # back: into an empty folder, verified on the way
    node.wait_until_uploaded()
    bucket, key = Bucket(node), max(node.keys())
    content = bucket.get(key)
    bucket.put(key, content[:-1] + bytes([content[-1] ^ 1]))
    code, document = isen(node, "migrate", "--back", *arguments)
    assert code == 1
    assert [failure["Key"] for failure in document["Failed"]] == [key]
    bucket.put(key, content)
    code, document = isen(node, "migrate", "--back", *arguments)
    assert (code, document["Counts"]) == (0, {"present": attachments(node) - 1, "written": 1})
    assert [path for path in folder.rglob("*.isen") if path.is_file()] == []
    node.stop()
    without_isen(node)
    node.orthanc.start()
    assert files(node) == images


def test_a_folder_that_is_none_is_refused(make_node: NodeMaker, tmp_path: Path) -> None:
    node = make_node(WITHOUT_DICOM)
    settings = tmp_path / "orthanc.json"
    settings.write_text(json.dumps(node.orthanc.settings))
    command = [sys.executable, "-m", "backend.cli", "migrate", str(settings), "--storage-directory"]
    for folder, code in ((tmp_path / "missing", 2), (settings, 2), (tmp_path, 2)):
        environment = {**os.environ, "TERM": "dumb"}
        run = subprocess.run([*command, str(folder)], check=False, cwd=ROOT, capture_output=True, env=environment)
        assert run.returncode == code
