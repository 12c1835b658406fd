"""Configurations and machines that Orthanc refuses to start on, each with a sentence that says what to mend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.folders import VOLATILE, file_system
from backend.stack.orthanc import NotStarted
from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker


def refusal(node: Node) -> str:
    """The sentences with which the start was refused; no process may be left."""
    with pytest.raises(NotStarted) as refused:
        node.start()
    assert refused.value.exit_code != 0
    node.wait_for_the_end()
    lines = [line for line in refused.value.log.splitlines() if "Isen cannot start: " in line]
    assert lines, refused.value.log
    return "\n".join(line.split("Isen cannot start: ")[1] for line in lines)


def storage(**options: Any) -> dict[str, Any]:
    return {"Isen": {"Storage": options}}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        pytest.param({"Isen": {"Storrage": {}}}, "Isen.Storrage", id="unknown section"),
        pytest.param(storage(BuckettName="x"), "Isen.Storage.BuckettName", id="unknown key"),
        pytest.param(storage(Region=None), "Isen.Storage.Region", id="missing key"),
        pytest.param(storage(MaximumSpoolSizeMB="big"), "Isen.Storage.MaximumSpoolSizeMB", id="wrong type"),
        pytest.param(storage(Durability="Later"), "Isen.Storage.Durability", id="impossible value"),
        pytest.param(storage(SecretKey=None), "Isen.Storage.SecretKey", id="one key of two"),
        pytest.param({"DicomServerEnabled": True}, "DicomServerEnabled", id="two DICOM servers on one port"),
        pytest.param({"DicomModalities": {"ct": ["CT"]}}, "DicomModalities.ct", id="half a modality"),
    ],
)
def test_a_mistake_in_the_configuration_is_named_with_its_path(
    make_node: NodeMaker, changes: dict[str, Any], path: str
) -> None:
    assert f"{path}: " in refusal(make_node(changes))


def test_all_mistakes_are_named_at_once_and_no_secret(make_node: NodeMaker) -> None:
    node = make_node(storage(Region=None, Endpoint="localhost:9000", SecretKey=12345678))
    said = refusal(node)
    for option in ("Region", "Endpoint", "SecretKey"):
        assert f"Isen.Storage.{option}: " in said
    assert "12345678" not in node.orthanc.process.output()


def test_a_missing_bucket_is_refused_unless_it_may_be_created(make_node: NodeMaker) -> None:
    node = make_node(storage(CreateBucket=False))
    assert "CreateBucket" in refusal(node)

    node.orthanc.settings["Isen"]["Storage"]["CreateBucket"] = True
    node.start()
    assert node.keys() == []


def test_a_spool_that_cannot_be_written_is_refused(make_node: NodeMaker, tmp_path: Path) -> None:
    """A file stands where the folder would be: not even root can write there."""
    (tmp_path / "file").touch()
    assert "Isen.Storage.SpoolDirectory: " in refusal(make_node(storage(SpoolDirectory=f"{tmp_path}/file/spool")))


def test_a_read_only_spool_is_refused(make_node: NodeMaker) -> None:
    """/proc is read-only in practice for everybody, root included."""
    assert "Isen.Storage.SpoolDirectory: " in refusal(make_node(storage(SpoolDirectory="/proc/sys/spool")))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a tmpfs")  # noqa: S108 -- only its path is used
def test_a_spool_that_does_not_survive_a_restart_is_refused(make_node: NodeMaker) -> None:
    place = f"/dev/shm/isen-{os.getpid()}"  # noqa: S108 -- refused before anything is written
    said = refusal(make_node(storage(SpoolDirectory=place, AllowVolatileSpool=False)))
    assert "Isen.Storage.SpoolDirectory: " in said
    assert "AllowVolatileSpool" in said


def test_a_spool_has_one_owner(make_node: NodeMaker) -> None:
    first = make_node().start()
    second = make_node(storage(SpoolDirectory=str(first.folder / "spool")))
    said = refusal(second)
    assert str(first.folder / "spool") in said
    assert "another Orthanc" in said
    assert first.peer.echo().exit_code == 0


def test_another_spool_is_refused_while_the_one_before_holds_what_was_acknowledged(
    make_node: NodeMaker, thumbnails: list[Path]
) -> None:
    node = make_node(gated=True).start()
    assert node.gate
    node.gate.refuse()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    owed = node.pending()
    node.stop()
    before, after = node.folder / "spool", node.folder / "larger" / "spool"
    node.orthanc.settings["Isen"]["Storage"]["SpoolDirectory"] = str(after)
    said = refusal(node)
    assert f"Isen.Storage.SpoolDirectory: {before}" in said
    assert f"{len(owed)} attachments" in said
    assert not after.exists()

    after.parent.mkdir()
    before.rename(after)  # as it says
    node.gate.open()
    node.start()
    wait_until(lambda: {*owed} <= {*node.keys()} and not os.listdir(after / "pending"), 60, "S3 has what was owed")
    node.stop()
    node.orthanc.settings["Isen"]["Storage"]["SpoolDirectory"] = str(before)
    node.start()  # nothing was left behind


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An image of an ext4, and a folder where it is mounted; both are of this test."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("only root can mount, with mkfs.ext4(8) and mount(8)")
    image, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted = mount(image, folder)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    yield image, folder
    subprocess.run(["umount", "--lazy", "--quiet", folder], check=False)


def mount(image: Path, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, folder], capture_output=True, check=False)


@pytest.mark.parametrize("place", ["", "spool"], ids=["the disk itself", "a folder of the disk"])
def test_a_spool_whose_disk_is_not_mounted_is_refused_until_it_is_or_is_said_to_be_lost(
    make_node: NodeMaker, thumbnails: list[Path], disk: tuple[Path, Path], place: str
) -> None:
    image, mounted = disk
    spool = mounted / place
    node = make_node(storage(SpoolDirectory=str(spool)), gated=True).start()
    assert node.gate
    node.gate.refuse()
    images = {json.loads(node.orthanc.post("/instances", path.read_bytes()))["ID"]: path for path in thumbnails}
    node.stop()
    subprocess.run(["umount", mounted], check=True)
    said = refusal(node)
    assert f"Isen.Storage.SpoolDirectory: {spool} is not the spool" in said
    assert not any(mounted.iterdir())

    assert not mount(image, mounted).returncode
    node.start()
    assert {instance: node.file(instance) for instance in node.instances()} == {
        instance: path.read_bytes() for instance, path in images.items()
    }
    node.stop()
    subprocess.run(["umount", mounted], check=True)
    note = node.folder / "index" / "isen-spool"
    assert f"remove {note}" in refusal(node)
    note.unlink()
    node.gate.open()
    is_missed = file_system(mounted) not in VOLATILE
    node.start()  # with a spool on the disk below
    node.stop()
    assert not mount(image, mounted).returncode
    if is_missed:
        assert f"{spool} is not the spool" in refusal(node)  # the one below would be hidden


def test_a_taken_dicom_port_is_named(make_node: NodeMaker) -> None:
    first = make_node().start()
    said = refusal(make_node({"DicomPort": first.orthanc.dicom_port}))
    assert "DicomPort: " in said
    assert str(first.orthanc.dicom_port) in said


def test_an_interpreter_that_does_not_exist_is_refused(make_node: NodeMaker) -> None:
    assert "Isen.Python: " in refusal(make_node({"Isen": {"Python": "/nowhere/python"}}))


def test_without_our_scp_orthanc_may_keep_its_own(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    """`Isen.Dicom.Enabled: false`: storage only."""
    node = make_node({"DicomServerEnabled": True, "Isen": {"Dicom": {"Enabled": False}}}).start()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    node.wait_until_uploaded()
    assert len(node.images_in_bucket()) == len(thumbnails)
    assert not [command for command in node.processes().values() if "-m scp" in command]
