"""The operators' tools are ended at random moments, politely and not; the archive is none the worse for it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.archive import NOW, ROOT, WITHOUT_DICOM, Bucket, isen, key_of, orphan_key, store_images
from tests.integration.harness import Node, NodeMaker
from tests.integration.test_hybrid import TO_BUCKET, post, read_all, with_mode, without_isen

pytestmark = pytest.mark.timeout(300)


class Tool:
    """One command, run again and again and ended somewhere between its start and its end."""

    def __init__(self, node: Node, folder: Path, *arguments: str, seed: int) -> None:
        self._command = [sys.executable, "-m", "backend.cli", *arguments]
        self._command.insert(4, str(node.folder / "orthanc.json"))
        self._temporary = folder / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self._chance = random.Random(seed)

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(self._temporary), "TERM": "dumb"}
        return subprocess.Popen(
            self._command, cwd=ROOT, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def interrupt(self, longest: float) -> None:
        """Nothing is left behind, and who was asked to end says so in one line."""
        for end in (signal.SIGINT, signal.SIGKILL):
            tool = self.start()
            time.sleep(self._chance.uniform(0.3, longest))
            tool.send_signal(end)
            _, said = tool.communicate(timeout=30)
            assert tool.returncode in (-end, 0, 1, 2), said
            assert list(self._temporary.rglob("*")) == []
            if end is signal.SIGINT and tool.returncode == 2:
                assert said.strip() == "interrupted; it may be run again"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_verify_repair_and_where(make_node: NodeMaker, tmp_path: Path, seed: int) -> None:
    node = make_node({**WITHOUT_DICOM, "MaximumStorageCacheSize": 0}).start()
    stored = store_images(node, tmp_path / "images", 15)
    contents = {instance: path.read_bytes() for instance, path in stored.items()}
    bucket, first = Bucket(node), next(iter(stored))
    slow = ("--per-second", "60")
    for command in (
        ("where", first),
        ("verify", *NOW, "--read-data", *slow),
        ("repair", *NOW, "--apply", "--read-data", "--delete-unknown", "--maximum-share", "50", *slow),
    ):
        bucket.put(orphan_key(), b"junk")
        bucket.put(key_of(node, first), b"short")
        tool = Tool(node, tmp_path, *command, seed=seed)
        tool.interrupt(1.0 if command[0] == "where" else 3.0)
        read_all(node, contents)
    assert isen(node, "repair", *NOW, "--apply", "--delete-unknown", "--maximum-share", "50")[0] == 0
    assert isen(node, "verify", *NOW, "--read-data")[0] == 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_migrate_there_and_back(make_node: NodeMaker, tmp_path: Path, seed: int) -> None:
    node = make_node({**WITHOUT_DICOM, "MaximumStorageCacheSize": 0})
    node.s3.create_bucket(node.bucket)
    with_isen = without_isen(node)
    node.orthanc.start()
    images = post(node, tmp_path / "old", 15)
    node.orthanc.stop()
    node.orthanc.settings = with_isen
    with_mode(node, TO_BUCKET)
    node.start()
    for options in (("--remove-copied",), ("--back",)):
        tool = Tool(node, tmp_path, "migrate", *options, "--parallel", "1", "--per-second", "60", seed=seed)
        tool.interrupt(4.0)
        read_all(node, images)
        assert isen(node, "migrate", *options)[0] == 0
        assert isen(node, "verify", *NOW, "--read-data")[0] == 0
        read_all(node, images)
    node.stop()
    without_isen(node)
    node.orthanc.start()
    read_all(node, images)
