"""DeleteWorklistsOnStableStudy on a real Orthanc: the entries of a study go once it has arrived and is stable."""

from __future__ import annotations

import io
import json
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from backend.stack.processes import wait_until
from tests.fakes.images import made_up_ct
from tests.fakes.worklists import make_worklist_file
from tests.integration.harness import Node, NodeMaker


def image(study: str, patient_id: str) -> bytes:
    """An image whose patient id is that of the worklist entry."""
    dataset = made_up_ct(study, generate_uid(), 1, side=16)
    dataset.PatientID = patient_id
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def create(node: Node, study: str, patient_id: str) -> str:
    step = {"Modality": "CT", "ScheduledProcedureStepStartDate": "20240229"}
    entry = {"PatientName": "A^B", "PatientID": patient_id, "StudyInstanceUID": study}
    body = {"Tags": {**entry, "ScheduledProcedureStepSequence": [step]}}
    return str(json.loads(node.orthanc.post("/worklists/create", json.dumps(body).encode()))["ID"])


def listed(node: Node) -> set[str]:
    return {entry["ID"] for entry in node.orthanc.get_json("/worklists")}


def test_entries_and_files_go_when_their_study_is_stable(make_node: NodeMaker, tmp_path: Path) -> None:
    folder = tmp_path / "wl"
    folder.mkdir()
    study, other = generate_uid(), generate_uid()
    make_worklist_file(folder / "arrived.wl", StudyInstanceUID=study)
    make_worklist_file(folder / "awaited.wl", StudyInstanceUID=other)
    worklists = {
        "Enable": True,
        "Directory": str(folder),
        "ManagedDirectory": str(tmp_path / "managed"),
        "DeleteWorklistsOnStableStudy": True,
        "HousekeepingInterval": 0.2,
    }
    node = make_node({"StableAge": 1, "Isen": {"Worklists": worklists}}).start()
    state = Path(node.orthanc.settings["Isen"]["Storage"]["SpoolDirectory"]) / "worklists" / "state" / "changes"
    wait_until(state.exists, 20, "the log of changes has been looked at")
    arrived, awaited = create(node, study, "P1"), create(node, other, "P2")
    node.orthanc.post("/instances", image(study, "P1"))
    wait_until(lambda: listed(node) == {awaited}, 30, "the entry has gone")
    wait_until(lambda: [path.name for path in folder.iterdir()] == ["awaited.wl"], 30, "the file has gone")
    assert arrived not in listed(node)

    node.orthanc.kill()
    node.wait_for_the_end()
    node.start()
    node.orthanc.post("/instances", image(other, "P2"))
    wait_until(lambda: not listed(node) and not list(folder.iterdir()), 30, "all have gone")
