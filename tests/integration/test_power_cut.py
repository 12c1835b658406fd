"""A power cut takes the last seconds of Orthanc's SQLite: acknowledged images come back, deleted ones do not."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from backend.stack.processes import wait_until
from tests.fakes.images import write_series
from tests.integration.harness import NEWER, OLDER, Node, NodeMaker

DEADLINE = 60.0  # seconds


class Machine:
    """A node whose machine can lose its power: what SQLite has not synced is gone, what Isen has synced is not."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.index = node.folder / "index"
        self.on_disk = node.folder / "index-on-disk"

    def remember(self) -> None:
        """This moment's index is what will be on the disk. The files are copied as a disk would have them."""
        shutil.rmtree(self.on_disk, ignore_errors=True)
        shutil.copytree(self.index, self.on_disk)

    def lose_power(self) -> None:
        """Everything ends at once; the index is that of the moment remembered, and the machine boots anew."""
        self.node.orthanc.kill()
        self.node.wait_for_the_end()
        shutil.rmtree(self.index)
        self.on_disk.rename(self.index)
        (self.node.folder / "spool" / "running").write_text("another boot\n")

    def reconciled(self) -> dict[str, Any]:
        """What `/isen/status` says once the power cut is repaired."""

        def state() -> dict[str, Any]:
            found: dict[str, Any] = self.node.status()["Storage"]["Reconciliation"]
            return found

        wait_until(lambda: state()["State"] == "Done", DEADLINE, "the index is reconciled")
        return state()


def store(node: Node, *paths: Path) -> dict[str, bytes]:
    """Orthanc id → bytes of images that Orthanc has acknowledged."""
    return {json.loads(node.orthanc.post("/instances", path.read_bytes()))["ID"]: path.read_bytes() for path in paths}


def read_back(node: Node) -> dict[str, bytes]:
    return {instance: node.file(instance) for instance in node.instances()}


@pytest.mark.parametrize(
    ("durability", "moment"),
    [("Spool", "pending"), ("Spool", "uploaded"), ("ObjectStore", "uploaded")],  # here nothing acknowledged is pending
)
def test_what_was_acknowledged_reads_back_although_its_rows_are_lost(
    make_node: NodeMaker, ten: list[Path], thumbnails: list[Path], durability: str, moment: str
) -> None:
    node = make_node({"Isen": {"Storage": {"Durability": durability}}}, gated=True).start()
    assert node.gate
    machine = Machine(node)
    images = store(node, *thumbnails)
    node.wait_until_uploaded()
    machine.remember()
    if moment == "pending":
        node.gate.refuse()
    images |= store(node, *ten)
    if moment == "uploaded":
        node.wait_until_uploaded()

    machine.lose_power()
    node.start()
    reconciled = machine.reconciled()
    assert read_back(node) == images
    assert reconciled["Undecided"] == 0
    assert node.status()["Storage"]["Counters"]["restored"] == 10

    # the old names are buried, the new ones in the bucket: one object for each attachment, as ever
    node.gate.open()
    node.wait_until_uploaded()
    expected = len(images) * len(node.attachments_of_an_image())
    wait_until(lambda: len(node.keys()) == expected, DEADLINE, "the objects of the old names are deleted")
    assert sorted(node.images_in_bucket().values()) == sorted(images.values())


def test_an_image_sent_again_with_another_patient_id_is_not_taken_for_the_first(
    make_node: NodeMaker, thumbnails: list[Path], tmp_path: Path
) -> None:
    node = make_node().start()
    machine = Machine(node)
    images = store(node, thumbnails[0])
    machine.remember()
    corrected = dcmread(thumbnails[0])
    corrected.PatientID = "MADE-UP-2"
    corrected.save_as(tmp_path / "corrected.dcm")
    images |= store(node, tmp_path / "corrected.dcm")

    machine.lose_power()
    node.start()
    machine.reconciled()
    assert read_back(node) == images
    expected = 2 * len(node.attachments_of_an_image())
    wait_until(lambda: len(node.keys()) == expected, DEADLINE, "S3 has both, and nothing of the old name")
    assert read_back(node) == images


def test_what_was_deleted_does_not_come_back_whether_its_row_does_or_not(
    make_node: NodeMaker, thumbnails: list[Path], tmp_path: Path
) -> None:
    node = make_node().start()
    machine = Machine(node)
    old = list(store(node, *thumbnails))
    node.wait_until_uploaded()
    machine.remember()
    new = list(store(node, *write_series(tmp_path / "new", 4, side=32)))
    node.orthanc.delete(f"/instances/{old[0]}")  # its row comes back, its object may be gone by then
    node.orthanc.delete(f"/instances/{new[0]}")  # its row was never on the disk
    node.wait_until_uploaded()
    kept = {*old[1:], *new[1:]}

    machine.lose_power()
    node.start()
    machine.reconciled()
    assert read_back(node).keys() == kept
    assert node.status()["Storage"]["Counters"]["removed_again"] == 1
    expected = len(kept) * len(node.attachments_of_an_image())
    wait_until(lambda: len(node.keys()) == expected, DEADLINE, "nothing is left of what was deleted")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("grace", [0, 20])
def test_an_image_that_is_sent_again_while_its_deletion_is_made_again_is_not_lost(
    make_node: NodeMaker, tmp_path: Path, grace: int
) -> None:
    """Orthanc says of some that it has them already: those whose rows came back, and were not deleted again yet."""
    node = make_node({"Isen": {"Storage": {"RemovalGracePeriod": grace}}}).start()
    machine = Machine(node)
    paths = write_series(tmp_path / "images", 60, side=32)
    images = store(node, *paths)
    node.wait_until_uploaded()
    machine.remember()
    for instance in images:
        node.orthanc.delete(f"/instances/{instance}")
    if not grace:
        wait_until(lambda: node.keys() == [], DEADLINE, "S3 has none of them")

    machine.lose_power()
    node.orthanc.start()
    assert store(node, *paths) == images
    machine.reconciled()
    node.wait_until_uploaded()
    wait_until(
        lambda: not any((node.folder / "spool" / "tombstones").iterdir()), 2 * DEADLINE, "every removal is decided"
    )
    node.stop()
    node.set_aside("spool", "cache")
    node.start()
    assert read_back(node) == images


@pytest.mark.timeout(240)
@pytest.mark.parametrize("changes", [{}, {"StorageCompression": True}], ids=["compressed", "inflated"])
def test_an_instance_whose_file_was_compressed_or_inflated_in_the_lost_seconds_is_kept_with_all_it_has(
    make_node: NodeMaker, thumbnails: list[Path], changes: dict[str, Any]
) -> None:
    node = make_node({**changes, "Isen": {"Storage": {"RemovalGracePeriod": 20}}}).start()
    machine = Machine(node)
    images = store(node, *thumbnails[:3])
    for instance in images:
        node.orthanc.put(f"/instances/{instance}/attachments/1024", b"notes of a user")
    node.wait_until_uploaded()
    machine.remember()
    for instance in images:
        node.orthanc.post(f"/instances/{instance}/attachments/dicom/{'uncompress' if changes else 'compress'}", b"")

    machine.lose_power()
    node.start()
    assert machine.reconciled()["Undecided"] == len(images)  # the notes, of which nobody can tell whose they are
    assert read_back(node) == images
    for instance in images:
        assert node.orthanc.get(f"/instances/{instance}/attachments/1024/data") == b"notes of a user"
    wait_until(lambda: node.status()["Storage"]["Spool"]["TombstoneCount"] == 0, 2 * DEADLINE, "the others are gone")
    assert read_back(node) == images


@pytest.mark.timeout(240)
@pytest.mark.parametrize("script", [NEWER, OLDER], ids=["newest storage area", "first storage area"])
def test_what_was_reconstructed_in_the_lost_seconds_is_kept_with_all_that_its_study_has(
    make_node: NodeMaker, tmp_path: Path, script: dict[str, Any]
) -> None:
    """Newer Orthancs write each file anew, and remove the old one: no instance was deleted, and no study."""
    node = make_node({**script, "Isen": {"Storage": {"RemovalGracePeriod": 20}}}).start()
    machine = Machine(node)
    images = store(node, *write_series(tmp_path / "images", 3, side=32))
    (study,) = node.orthanc.get_json("/studies")
    node.orthanc.put(f"/studies/{study}/attachments/1024", b"report of a user")
    for instance in images:
        node.orthanc.put(f"/instances/{instance}/metadata/1024", b"remark of a user")
    node.wait_until_uploaded()
    machine.remember()
    for _ in range(2):
        node.orthanc.post(f"/studies/{study}/reconstruct", b'{"ReconstructFiles": true}')

    machine.lose_power()
    node.start()
    machine.reconciled()
    assert node.orthanc.get(f"/studies/{study}/attachments/1024/data") == b"report of a user"
    for instance in images:
        assert node.orthanc.get(f"/instances/{instance}/metadata/1024") == b"remark of a user"
    wait_until(lambda: node.status()["Storage"]["Spool"]["TombstoneCount"] == 0, 2 * DEADLINE, "the others are gone")
    assert node.orthanc.get(f"/studies/{study}/attachments/1024/data") == b"report of a user"
    node.wait_until_uploaded()
    node.stop()
    node.set_aside("spool", "cache")
    node.start()
    assert read_back(node) == images


@pytest.mark.timeout(240)
def test_what_was_overwritten_in_the_lost_seconds_is_overwritten_again(
    make_node: NodeMaker, thumbnails: list[Path], tmp_path: Path
) -> None:
    node = make_node({"OverwriteInstances": True, "Isen": {"Storage": {"RemovalGracePeriod": 20}}}).start()
    machine = Machine(node)
    (instance,) = store(node, thumbnails[0])
    node.wait_until_uploaded()
    machine.remember()
    corrected = dcmread(thumbnails[0])
    corrected.InstitutionName = "MADE-UP"
    corrected.save_as(tmp_path / "corrected.dcm")
    images = store(node, tmp_path / "corrected.dcm")
    assert images.keys() == {instance}

    machine.lose_power()
    node.start()
    machine.reconciled()
    assert read_back(node) == images
    wait_until(lambda: node.status()["Storage"]["Spool"]["TombstoneCount"] == 0, 2 * DEADLINE, "the others are gone")
    assert read_back(node) == images


def test_the_repair_may_be_cut_off_at_any_moment_and_is_taken_up_again(make_node: NodeMaker, tmp_path: Path) -> None:
    node = make_node().start()
    machine = Machine(node)
    machine.remember()
    images = store(node, *write_series(tmp_path / "images", 100, side=32))
    machine.lose_power()
    recheck = node.folder / "spool" / "recheck.json"
    cut_off = 0
    for _ in range(3):
        node.orthanc.start()
        wait_until(node.instances, DEADLINE, "some are restored")
        node.orthanc.kill()
        node.wait_for_the_end()
        cut_off += recheck.exists()
    assert cut_off
    node.start()
    wait_until(lambda: not recheck.exists(), DEADLINE, "all is restored")
    assert read_back(node) == images


def test_a_killed_orthanc_has_lost_no_row_and_nothing_is_compared(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    node = make_node().start()
    images = store(node, *thumbnails)
    node.orthanc.kill()
    node.wait_for_the_end()
    node.start()
    assert node.status()["Storage"]["Reconciliation"]["State"] == "NotNeeded"
    assert read_back(node) == images


def test_a_power_cut_is_watched_for_until_orthanc_has_closed_its_index(make_node: NodeMaker) -> None:
    """On SIGTERM to every process, as systemd stops a service, the transfer process ends long before Orthanc."""
    node = make_node().start()
    running, transfer = node.folder / "spool" / "running", node.child("backend.transfer")
    os.kill(transfer, signal.SIGTERM)

    def is_started_again() -> bool:
        assert running.exists()
        return bool(node.child_status("backend.transfer", other_than=transfer))

    wait_until(is_started_again, DEADLINE, "the transfer process is started again")
    assert running.exists()
    node.stop()
    assert not running.exists()
