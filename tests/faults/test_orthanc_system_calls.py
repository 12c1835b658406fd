"""System calls fail inside a real Orthanc: no store is acknowledged, nothing is left over, and it heals by itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from backend.stack.processes import wait_until
from config.arrival import ARRIVING
from tests.fakes.images import write_series
from tests.faults.injection import Injection, why_no_strace
from tests.integration.harness import Node, NodeMaker, sop_instance_uid

OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3
NO_STRACE = pytest.mark.skipif(bool(why_no_strace()), reason=f"no failing system calls: {why_no_strace()}")
# Calls that only Isen makes in Orthanc's process, the index syncs with fdatasync(2)
FAULTS = ("fsync:error=EIO:when=1+", "rename:error=EIO:when=1+", "fsetxattr:error=ENOSPC:when=1+")


@contextlib.contextmanager
def another_store(node: Node) -> Iterator[None]:
    """As if another DICOM worker stored something all the while: Orthanc writes, instead of taking copies over."""
    folder = os.open(node.folder / "spool" / ARRIVING, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(folder)


def assert_refused(node: Node, image: Path) -> None:
    """Over DICOM with 0xA700, over HTTP with an error; the index has nothing of it."""
    before = node.instances()
    assert set(node.peer.store(image).statuses) == {OUT_OF_RESOURCES}
    with pytest.raises(HTTPError) as refused:
        node.orthanc.post("/instances", image.read_bytes())
    assert refused.value.code >= 500
    assert node.instances() == before


def assert_heals(node: Node, images: list[Path]) -> None:
    """All images can be stored and read back, everything reaches S3, and the spool's account is right."""
    wait_until(lambda: node.spool_status()["State"] == "Healthy", 10, "the spool is healthy")
    assert node.peer.send(*images).sent == len(images)
    node.wait_until_uploaded()
    wait_until(lambda: node.spool_status()["UsedBytes"] == 0, 10, "the account says that the spool is empty")
    assert node.incoming() == []
    uids = {sop_instance_uid(path.read_bytes()) for path in images}
    assert {sop_instance_uid(node.file(instance)) for instance in node.instances()} == uids
    wait_until(lambda: node.images_in_bucket().keys() == uids, 20, "S3 holds them and nothing else")
    wait_until(lambda: len(node.images_in_bucket()) == len(node.instances()), 20, "refused images are not in S3")


@NO_STRACE
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_system_call_is_a_refused_store(
    make_node: NodeMaker, ten: list[Path], tmp_path: Path, fault: str
) -> None:
    node = make_node().start()
    assert node.peer.send(ten[0]).sent == 1
    with another_store(node), Injection(node.orthanc.process.pid, tmp_path / "strace", fault) as injection:
        assert_refused(node, ten[1])
        assert_refused(node, ten[2])
        if fault.startswith("fsync"):  # four in a row
            status = node.spool_status()
            assert status["State"] == "Suspect"
            assert "Input/output error" in status["Reason"]
        (instance,) = node.instances()
        assert node.file(instance)  # what is stored can be read all the while
    assert any(call.was_injected for call in injection.calls())
    assert_heals(node, ten)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount, with mount(8)")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_refuses_and_heals_when_s3_has_taken_some(
    make_node: NodeMaker, ten: list[Path], small_disk: Path
) -> None:
    """The disk is full long before MaximumSpoolSizeMB: write(2) takes a part and then says ENOSPC."""
    storage = {"SpoolDirectory": str(small_disk / "spool"), "ConnectTimeout": 1}
    node = make_node({"Isen": {"Storage": storage}}, gated=True).start()
    assert node.gate
    node.gate.refuse()
    answer = node.peer.store(*ten, options=["-nh"])  # go on after a refusal
    stored = answer.statuses.count(0)
    assert 0 < stored < 10
    assert answer.statuses.count(OUT_OF_RESOURCES) == 10 - stored
    assert "No space left on device" in node.orthanc.process.output()
    assert os.listdir(small_disk / "spool" / "incoming") == []
    assert len(node.instances()) == stored

    node.stop()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert not shutil.disk_usage(small_disk).free
    node.start()  # only S3 can empty the disk: a full one must not keep it from that
    node.gate.open()
    wait_until(lambda: node.spool_status()["UsedBytes"] == 0, 30, "S3 has what was owed")
    filler.unlink()
    for path in ten:
        wait_until(lambda: node.spool_status()["UsedBytes"] == 0, 30, "the spool has room again")
        # what was just uploaded is kept on the disk until somebody looks how full that is
        wait_until(lambda: node.peer.send(path).sent == 1, 30, "it is taken")  # noqa: B023 - called at once
    uids = {sop_instance_uid(path.read_bytes()) for path in ten}
    wait_until(lambda: node.images_in_bucket().keys() == uids, 30, "everything is in S3, and nothing else")


def test_the_cache_gives_way_to_stores_on_a_disk_smaller_than_its_budget(
    make_node: NodeMaker, tmp_path: Path, small_disk: Path
) -> None:
    storage = {"SpoolDirectory": str(small_disk / "spool"), "CacheDirectory": str(small_disk / "cache")}
    node = make_node({"Isen": {"Storage": storage}}).start()
    for path in write_series(tmp_path / "images", 40, side=256):  # 5 MB, and S3 takes all of it
        wait_until(lambda: node.spool_status()["UsedBytes"] == 0, 30, "the spool is empty")
        assert node.peer.send(path).sent == 1
    cache = node.status()["Storage"]["Cache"]
    assert 0 < cache["Bytes"] <= 2 * 1024 * 1024
