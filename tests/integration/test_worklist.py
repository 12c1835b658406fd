"""Modality Worklist over the wire: DCMTK's findscu asks, and DCMTK's wlmscpfs answers the same from the same folder."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import PersonName
from pynetdicom import AE

from backend.stack.dcmtk import Answer, Peer
from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from config.settings import WorklistSettings
from scp.statuses import CANCEL, DATA_SET_DOES_NOT_MATCH, PENDING, PENDING_WARNING, SUCCESS
from tests.fakes.performed_steps import STUDY, creation
from tests.fakes.ris import MPPS
from tests.fakes.worklists import make_worklist_file, make_worklist_folder
from tests.integration.scp_fixtures import ScpWorker, dicom_settings

AE_TITLE = "ISEN"  # wlmscpfs takes it for the name of a folder
ENTRIES = 60
STEP = "ScheduledProcedureStepSequence[0]"
RETURN_KEYS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "RequestedProcedureID",
    "StudyInstanceUID",
    "PregnancyStatus",
    "Allergies",
    f"{STEP}.Modality",
    f"{STEP}.ScheduledStationAETitle",
    f"{STEP}.ScheduledProcedureStepStartDate",
    f"{STEP}.ScheduledProcedureStepStartTime",
    f"{STEP}.ScheduledProcedureStepID",
    f"{STEP}.ScheduledProcedureStepDescription",
)
DATE = f"{STEP}.ScheduledProcedureStepStartDate"
TIME = f"{STEP}.ScheduledProcedureStepStartTime"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worklists") / AE_TITLE
    make_worklist_folder(folder, ENTRIES)
    make_worklist_file(folder / "empty.wl", PatientID="EMPTY", PatientBirthDate="", AccessionNumber="", PatientSex="")
    make_worklist_file(folder / "two.wl", PatientID="TWO", ScheduledStationAETitle=["CT1", "CT9"], Modality="CT")
    make_worklist_file(folder / "incomplete.wl", PatientID="INCOMPLETE", Modality=None)
    (folder / "garbage.wl").write_bytes(b"this is no DICOM file")
    (folder / "lockfile").touch()
    return folder


def _worker(tmp_path: Path, folder: Path, dicom: dict[str, Any] | None = None, **worklists: Any) -> ScpWorker:
    settings = dicom_settings(always_allow_find_worklist=True, **(dicom or {}))
    return ScpWorker(tmp_path, free_port(), settings, WorklistSettings(directory=folder, **worklists))


@pytest.fixture(scope="module")
def isen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    worker = _worker(tmp_path_factory.mktemp("worker"), folder)
    yield Peer(worker.port)
    worker.stop()


@pytest.fixture(scope="module")
def oracle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """DCMTK's own worklist server on the same folder."""
    tool = shutil.which("wlmscpfs")
    assert tool
    port = free_port()
    log = tmp_path_factory.mktemp("wlmscpfs") / "log"
    server = Process([tool, "--single-process", "--keep-char-set", "-dfp", folder.parent, str(port)], log)
    peer = Peer(port, called=AE_TITLE)
    wait_until(lambda: peer.echo().exit_code == 0, 20, "wlmscpfs answers")
    yield peer
    server.stop()


def ask(peer: Peer, *keys: str, options: tuple[str, ...] = ()) -> Answer:
    """The keys, and all else that both servers support as return keys."""
    asked = {key.partition("=")[0] for key in keys}
    return peer.find(*(key for key in RETURN_KEYS if key not in asked), *keys, model="-W", options=options)


def plain(data_set: Dataset) -> dict[str, Any]:
    """Values as text, so that the character set of the answer does not matter."""
    values: dict[str, Any] = {}
    for element in data_set:
        if element.VR == "SQ":
            values[element.keyword] = [plain(item) for item in element.value]
        elif element.keyword != "SpecificCharacterSet":
            value = element.value
            values[element.keyword] = str(value) if isinstance(value, PersonName) else value or None
    return values


def steps(answer: Answer) -> list[dict[str, Any]]:
    return sorted((plain(one) for one in answer.data_sets), key=lambda one: str(one["PatientID"]))


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("PatientID=PID7",),
        ("PatientID=PID999",),
        ("PatientID=TWO",),
        ("PatientName=Muster*",),
        ("PatientName=Muster^Otto",),
        ("PatientName=M?ster^*",),
        ("PatientName=*^Jan",),
        ("PatientName=*",),
        ("PatientName=*x*",),
        (f"{STEP}.Modality=CT",),
        (f"{STEP}.Modality=XA",),
        (f"{STEP}.ScheduledStationAETitle=CT1",),
        (f"{STEP}.ScheduledStationAETitle=MR1", f"{STEP}.Modality=MR"),
        (f"{STEP}.ScheduledStationAETitle=MR1", f"{STEP}.Modality=CT"),
        (f"{DATE}=20240302",),
        (f"{DATE}=20240302-20240303",),
        (f"{DATE}=20240304-",),
        (f"{DATE}=-20240301",),
        (f"{DATE}=20240302-20240303", f"{TIME}=080000-120000"),
        (f"{DATE}=20240301-20240302", f"{TIME}=120000-090000"),
        (f"{DATE}=20240302", f"{TIME}=080000-120000"),
        (f"{DATE}=20240302-", f"{TIME}=120000-"),
        (f"{DATE}=-20240302", f"{TIME}=-120000"),
        (f"{TIME}=080000-100000",),
        (f"{STEP}.ScheduledPerformingPhysicianName=Doctor*",),
        ("AccessionNumber=A12",),
        ("RequestedProcedureID=RP12",),
        ("RequestedProcedurePriority=ROUTINE",),
        ("ReferringPhysicianName=Referrer*",),
        ("PatientSex=F",),
        ("PatientBirthDate=19500615-19900615",),
        ("PatientSex=F", "PatientName=M*", f"{STEP}.Modality=US"),
    ],
    ids=lambda keys: " ".join(key.rpartition(".")[2] for key in keys) or "everything",
)
def test_answers_are_those_of_wlmscpfs(isen: Peer, oracle: Peer, keys: tuple[str, ...]) -> None:
    ours, theirs = ask(isen, *keys), ask(oracle, *keys)
    assert steps(ours) == steps(theirs)
    assert ours.statuses == [PENDING] * len(theirs.data_sets) + [SUCCESS]


POOLS: dict[str, tuple[str, ...]] = {
    "PatientName": ("M*", "*^Anna", "?uster^*", "Beispiel^Otto", "Nowak*", "*"),
    "PatientID": ("PID7", "PID12"),
    "PatientSex": ("F", "M"),
    "PatientBirthDate": ("19300615-19700615", "19800101-", "-19600101"),
    "AccessionNumber": ("A7", "A12"),
    "RequestedProcedureID": ("RP7", "RP12"),
    "ReferringPhysicianName": ("Referrer*",),
    f"{STEP}.Modality": ("CT", "MR", "US"),
    f"{STEP}.ScheduledStationAETitle": ("CT1", "CT2", "MR1", "US1"),
    f"{STEP}.ScheduledPerformingPhysicianName": ("Doctor*", "D?ctor^Any"),
    DATE: ("20240302", "20240229-20240302", "20240303-", "-20240301"),
    TIME: ("080000-120000", "120000-", "-120000", "070000-150000"),
}


@pytest.mark.parametrize("seed", range(30))
def test_random_queries_are_answered_as_by_wlmscpfs(isen: Peer, oracle: Peer, seed: int) -> None:
    """Two to four keys of K.6-1 at a time."""
    chance = random.Random(seed)
    names = chance.sample(sorted(POOLS), chance.randint(2, 4))
    keys = [f"{name}={chance.choice(POOLS[name])}" for name in names]
    ours, theirs = ask(isen, *keys), ask(oracle, *keys)
    assert steps(ours) == steps(theirs), keys
    assert ours.statuses[-1] == SUCCESS


def test_the_whole_step_is_answered_to_an_empty_sequence(isen: Peer) -> None:
    (answer,) = isen.find("PatientID=PID7", "ScheduledProcedureStepSequence", model="-W").data_sets
    (step,) = answer.ScheduledProcedureStepSequence
    assert step.ScheduledProcedureStepLocation == "Basement"
    assert step.ScheduledProtocolCodeSequence[0].CodingSchemeDesignator == "99MADEUP"


@pytest.mark.parametrize("syntax", ["-xe", "-xb", "-xi", "-xd"])
def test_every_uncompressed_transfer_syntax(isen: Peer, syntax: str) -> None:
    answer = ask(isen, "PatientID=PID7", options=(syntax,))
    assert answer.statuses == [PENDING, SUCCESS]
    assert answer.data_sets[0].PatientID == "PID7"


def test_unsupported_keys_are_said_so(isen: Peer, oracle: Peer) -> None:
    for peer in (isen, oracle):
        answer = ask(peer, "PatientID=PID7", "AcquisitionNumber=3")
        assert answer.statuses == [PENDING_WARNING, SUCCESS]
        assert "AcquisitionNumber" not in answer.data_sets[0]


def test_malformed_keys_are_refused_and_the_association_goes_on(isen: Peer) -> None:
    """--repeat asks twice over one association."""
    answer = ask(isen, f"{DATE}=tomorrow", options=("--repeat", "2"))
    assert answer.statuses == [DATA_SET_DOES_NOT_MATCH] * 2
    assert "ScheduledProcedureStepStartDate: not a DA value" in answer.output


def test_cancel_ends_the_answers(tmp_path: Path) -> None:
    make_worklist_folder(tmp_path / "many", 2000)
    worker = _worker(tmp_path / "worker", tmp_path / "many")
    try:
        answer = ask(Peer(worker.port), options=("--cancel", "3"))
    finally:
        worker.stop()
    assert answer.statuses[-1] == CANCEL
    assert 3 <= len(answer.data_sets) < 2000


def test_filter_issuer_aet_and_limit_answers(folder: Path, tmp_path: Path) -> None:
    worker = _worker(tmp_path, folder, filter_issuer_aet=True, limit_answers=2)
    try:
        answer = ask(Peer(worker.port, calling="CT1"))
    finally:
        worker.stop()
    assert answer.statuses == [PENDING, PENDING, CANCEL]
    stations = [step["ScheduledProcedureStepSequence"][0]["ScheduledStationAETitle"] for step in steps(answer)]
    assert all("CT1" in station for station in stations)


def test_a_file_that_appears_is_in_the_next_answer_and_one_that_goes_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_worklist_folder(folder, 1)
    worker = _worker(tmp_path / "worker", folder)
    peer = Peer(worker.port)
    try:
        assert len(ask(peer).data_sets) == 1
        make_worklist_file(folder / "new.wl", PatientID="NEW")
        assert len(ask(peer, "PatientID=NEW").data_sets) == 1
        (folder / "new.wl").unlink()
        assert ask(peer, "PatientID=NEW").statuses == [SUCCESS]
    finally:
        worker.stop()


def test_bad_files_are_logged_once_and_no_patient_is(folder: Path, tmp_path: Path) -> None:
    worker = _worker(tmp_path, folder)
    peer = Peer(worker.port)
    try:
        for _ in range(3):
            ask(peer, "PatientName=Muster*")
        log = worker.output()
    finally:
        worker.stop()
    assert log.count("worklist_file_skipped") == 2
    garbage, incomplete = ((folder / name).stat().st_ino for name in ("garbage.wl", "incomplete.wl"))
    assert f"inode={garbage} reason=" in log
    assert f"inode={incomplete} reason='Modality is missing or empty'" in log
    assert ".wl" not in log, "whoever exports them may name files after patients"
    assert "Muster" not in log
    assert "PID" not in log


def test_not_for_everybody(folder: Path, tmp_path: Path) -> None:
    """DicomAlwaysAllowFindWorklist is false by default, and the peer is not in DicomModalities."""
    worker = ScpWorker(tmp_path, free_port(), dicom_settings(), WorklistSettings(directory=folder))
    try:
        answer = ask(Peer(worker.port))
    finally:
        worker.stop()
    assert not answer.data_sets
    assert SUCCESS not in answer.statuses


def test_a_step_that_a_modality_has_reported_is_not_offered_any_more(tmp_path: Path) -> None:
    """The N-CREATE of a performed procedure step (PS3.4 F.7.2.1) hides its entry, whichever worker answers."""
    folder = tmp_path / "folder"
    folder.mkdir()
    make_worklist_file(folder / "1.wl", PatientID="ITS", StudyInstanceUID=STUDY, ScheduledProcedureStepID="SPS1")
    make_worklist_file(folder / "2.wl", PatientID="OTHER", StudyInstanceUID=STUDY, ScheduledProcedureStepID="SPS2")
    worker = _worker(tmp_path / "worker", folder)
    peer = Peer(worker.port)
    try:
        assert len(ask(peer).data_sets) == 2
        modality = AE("CT1")
        modality.add_requested_context(MPPS)
        association = modality.associate("127.0.0.1", worker.port)
        status, _ = association.send_n_create(creation(), MPPS, generate_uid())
        association.release()
        assert status.Status == SUCCESS
        assert [one.PatientID for one in ask(peer).data_sets] == ["OTHER"]
        assert len(ask(peer, f"{STEP}.ScheduledProcedureStepStatus=SCHEDULED").data_sets) == 2
    finally:
        worker.stop()
