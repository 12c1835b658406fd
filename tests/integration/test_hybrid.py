"""HybridMode: an archive is read from Orthanc's own folder and from the bucket while it moves from one to the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.stack.orthanc import NotStarted
from backend.stack.processes import wait_until
from tests.fakes.images import write_series
from tests.integration.archive import NOW, ROOT, WITHOUT_DICOM, isen, key_of, run_isen, store_images
from tests.integration.harness import Node, NodeMaker

pytestmark = pytest.mark.timeout(240)
TO_BUCKET = "WriteToObjectStorage"
TO_FILES = "WriteToFileSystem"


def with_mode(node: Node, mode: str, **options: Any) -> None:
    """From its next start on. A read that first asked S3 for what only the folder has would take a minute."""
    storage = node.orthanc.settings["Isen"]["Storage"]
    storage |= {"HybridMode": mode, "MissingObjectPatience": 60, **options}


def without_isen(node: Node) -> dict[str, Any]:
    """Have Orthanc use its own storage area from its next start on; the settings that bring Isen back."""
    settings = node.orthanc.settings
    node.orthanc.settings = {**settings, "Plugins": []}
    return settings


@pytest.fixture
def node(make_node: NodeMaker) -> Node:
    made = make_node({**WITHOUT_DICOM, "MaximumStorageCacheSize": 0}, gated=True)
    made.s3.create_bucket(made.bucket)
    return made


def post(node: Node, folder: Path, count: int, side: int = 64) -> dict[str, bytes]:
    """Orthanc id → file."""
    contents = [path.read_bytes() for path in write_series(folder, count, side=side)]
    return {json.loads(node.orthanc.post("/instances", content))["ID"]: content for content in contents}


def file_of(node: Node, instance: str, attachment: str = "dicom") -> Path:
    uuid = str(node.orthanc.get_json(f"/instances/{instance}/attachments/{attachment}/info")["Uuid"])
    return node.folder / "index" / uuid[:2] / uuid[2:4] / uuid


def files(node: Node) -> list[Path]:
    return sorted((node.folder / "index").glob("??/??/*"))


def read_all(node: Node, images: dict[str, bytes]) -> None:
    assert {instance: node.file(instance) for instance in images} == images


@contextmanager
def read_meanwhile(node: Node, images: dict[str, bytes]) -> Iterator[None]:
    """Somebody reads every image over and over, and each time finds what was stored."""
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            read_all(node, images)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            yield
        finally:
            stop.set()
        reader.result()


def test_from_orthancs_own_folder_into_the_bucket_while_everything_goes_on(node: Node, tmp_path: Path) -> None:
    with_isen = without_isen(node)
    node.orthanc.start()
    images = post(node, tmp_path / "old", 25)
    node.orthanc.stop()
    node.orthanc.settings = with_isen
    with_mode(node, TO_BUCKET)
    node.start()

    # everything is there at once, and nobody asked S3 for it
    began = time.monotonic()
    read_all(node, images)
    assert time.monotonic() - began < 30
    counters = node.status()["Storage"]["Counters"]
    assert counters["reads_storage_directory"] >= 25
    assert counters["reads_s3"] == 0
    assert node.keys() == []
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert (code, document["Findings"]) == (0, [])
    assert document["Counts"]["OnlyInFileSystem"] == len(files(node)) == document["Counts"]["Attachments"]

    # what is new goes to the bucket, what is removed goes in both places
    new = post(node, tmp_path / "new", 5)
    node.wait_until_uploaded()
    assert len(node.images_in_bucket()) == 5
    removed = next(iter(images))
    gone = file_of(node, removed)
    node.orthanc.delete(f"/instances/{removed}")
    del images[removed]
    wait_until(lambda: not gone.exists(), 20, "the removed image's file is gone")
    images |= new

    # the migration is killed, goes on, and is repeated; images come and are read meanwhile
    command = [sys.executable, "-m", "backend.cli", "migrate", str(node.folder / "orthanc.json"), "--remove-copied"]
    with read_meanwhile(node, images):
        assert node.gate
        node.gate.delay = 0.3  # so that it is not over before the signal comes
        for end in (signal.SIGINT, signal.SIGKILL):
            before = len(node.keys())
            migrating = subprocess.Popen([*command, "--parallel", "1"], cwd=ROOT)
            wait_until(lambda before=before: len(node.keys()) > before + 3, 60, "some attachments were copied")  # type: ignore[misc]
            migrating.send_signal(end)
            assert migrating.wait(20) in (-end, 2)
        node.gate.delay = 0
        code, document = isen(node, "migrate", "--remove-copied")
        assert (code, document["Failed"]) == (0, [])
        assert document["Counts"]["removed files"] > 0
        assert isen(node, "migrate", "--remove-copied")[1]["Counts"] == {
            "present": document["Counts"]["present"] + document["Counts"]["uploaded"]
        }
    assert files(node) == []
    read_all(node, images)
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert (code, document["Counts"]["OnlyInFileSystem"]) == (0, 0)
    node.stop()
    node.set_aside("cache")
    with_mode(node, "Disabled")
    node.start()
    read_all(node, images)


def test_from_the_bucket_back_into_orthancs_own_folder_and_on_without_isen(node: Node, tmp_path: Path) -> None:
    node.start()
    images = {instance: path.read_bytes() for instance, path in store_images(node, tmp_path / "old", 20).items()}
    in_bucket = set(node.keys())
    node.stop()
    with_mode(node, TO_FILES)
    node.start()
    new = post(node, tmp_path / "new", 5)
    assert all(file_of(node, instance).read_bytes() == content for instance, content in new.items())
    assert node.pending() == []
    assert set(node.keys()) == in_bucket
    read_all(node, images | new)
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0

    for images_of in (new, images):  # removal, of what is here and of what is there
        removed = next(iter(images_of))
        key, path = key_of(node, removed), file_of(node, removed)
        node.orthanc.delete(f"/instances/{removed}")
        del images_of[removed]
        wait_until(lambda key=key: not {key} & set(node.keys()), 20, "the object is gone")  # type: ignore[misc]
        wait_until(lambda path=path: not path.exists(), 20, "the file is gone")  # type: ignore[misc]

    command = [sys.executable, "-m", "backend.cli", "migrate", str(node.folder / "orthanc.json"), "--back"]
    written = len(files(node))
    migrating = subprocess.Popen([*command, "--parallel", "1", "--per-second", "10"], cwd=ROOT)
    wait_until(lambda: len(files(node)) > written + 3, 60, "some attachments were copied")
    migrating.send_signal(signal.SIGKILL)
    migrating.wait()
    code, document = isen(node, "migrate", "--back")
    assert (code, document["Failed"]) == (0, [])
    assert document["Counts"]["written"] > 0
    images |= new
    read_all(node, images)
    node.stop()
    without_isen(node)
    node.orthanc.start()
    read_all(node, images)


def test_what_was_acknowledged_with_write_to_file_system_survives_a_kill(node: Node, tmp_path: Path) -> None:
    with_mode(node, TO_FILES)
    (node.folder / "index").mkdir()
    node.start()
    contents = [path.read_bytes() for path in write_series(tmp_path / "images", 60, side=64)]
    acknowledged: dict[str, bytes] = {}

    def send() -> None:
        for content in contents:
            try:
                acknowledged[json.loads(node.orthanc.post("/instances", content))["ID"]] = content
            except OSError:
                return

    sender = threading.Thread(target=send)
    sender.start()
    wait_until(lambda: len(acknowledged) > 10, 60, "some images were acknowledged")
    node.orthanc.kill()
    sender.join()
    node.wait_for_the_end()
    assert len(acknowledged) < 60
    node.start()
    read_all(node, acknowledged)
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0


def test_ranges_and_places_of_what_only_the_folder_has(node: Node, tmp_path: Path) -> None:
    with_isen = without_isen(node)
    node.orthanc.start()
    ((instance, content),) = post(node, tmp_path / "old", 1, side=1024).items()
    node.orthanc.stop()
    node.orthanc.settings = with_isen
    with_mode(node, TO_BUCKET)
    node.start()
    path = f"/instances/{instance}/attachments/dicom/data"
    part = node.orthanc.get(path, {"Range": "bytes=1000000-1000099"})
    assert part in (content[1000000:1000100], content)  # Orthanc 1.10.1 does not know Range
    code, (found, *_) = isen(node, "where", instance)
    assert code == 0
    assert (found["Object"], [file["Place"] for file in found["Local"]]) == (None, ["storage-directory"])
    table = run_isen("where", str(node.folder / "orthanc.json"), instance)
    assert str(file_of(node, instance)) in "".join(table.stdout.split())  # long lines are folded
    file_of(node, instance).unlink()
    assert isen(node, "where", instance)[0] == 1


def test_damage_is_found_and_mended(node: Node, tmp_path: Path) -> None:
    """Of what was copied Isen knows the SHA-256, so it reads the object instead; `isen repair` removes the file."""
    with_isen = without_isen(node)
    node.orthanc.start()
    images = post(node, tmp_path / "old", 3)
    node.orthanc.stop()
    node.orthanc.settings = with_isen
    with_mode(node, TO_BUCKET)
    node.start()
    assert isen(node, "migrate")[0] == 0
    first, *_ = images
    path = file_of(node, first)
    sound = path.read_bytes()
    with path.open("r+b") as file:  # the digest beside it stays
        file.seek(len(sound) - 1)
        file.write(bytes([sound[-1] ^ 1]))
    read_all(node, images)
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert (code, [finding["Kind"] for finding in document["Findings"]]) == (1, ["damaged-file"])
    assert isen(node, "repair", *NOW, "--read-data", "--apply")[0] == 0
    assert not path.exists()
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0
    read_all(node, images)


def test_files_stay_while_orthanc_runs_without_isen(node: Node, tmp_path: Path) -> None:
    with_isen = without_isen(node)
    node.orthanc.start()
    images = post(node, tmp_path / "old", 2)
    settings = tmp_path / "to come.json"
    with_isen["Isen"]["Storage"]["HybridMode"] = TO_BUCKET
    settings.write_text(json.dumps(with_isen))
    refused = run_isen("migrate", str(settings), "--remove-copied")
    assert refused.returncode == 2
    assert "without Isen" in refused.stderr
    assert run_isen("migrate", str(settings), "--back", "--remove-copied").returncode == 2
    read_all(node, images)


def test_a_folder_that_is_not_there_is_refused(node: Node, tmp_path: Path) -> None:
    """It may be a disk that is not mounted; then everything would seem to be missing."""
    with_mode(node, TO_BUCKET)
    node.orthanc.settings |= {"StorageDirectory": str(tmp_path / "not mounted")}
    with pytest.raises(NotStarted) as refused:
        node.start()
    assert "Isen cannot start: StorageDirectory: there is no folder" in refused.value.log
    assert not (tmp_path / "not mounted").exists()
    check = run_isen("check", str(node.folder / "orthanc.json"), "--json")
    (found,) = [one for one in json.loads(check.stdout)["Checks"] if one["Check"] == "Storage folder"]
    assert (found["Verdict"], os.path.exists(tmp_path / "not mounted")) == ("failed", False)
