"""The DICOM services over the wire: DCMTK's tools, one worker, and a real Orthanc that keeps the images.

Orthanc's own SCP on the same index is the second opinion where it follows the Standard.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt

from backend.stack.dcmtk import Answer, Peer, StoreScp
from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from backend.stack.samples import real_files
from config.settings import DicomSettings, OrthancSettings
from scp.orthanc_client import OrthancClient
from scp.part10 import read_file_meta
from scp.services.find import FindService
from scp.store_association import open_association
from tests.fakes.archive import instance
from tests.fakes.dimse_request import RecordedRequest
from tests.fakes.images import write_series
from tests.fakes.orthanc_index import FakeOrthanc
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

SERIES = ("QueryRetrieveLevel=SERIES", "StudyInstanceUID", "SeriesInstanceUID")
IMAGE = ("QueryRetrieveLevel=IMAGE", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def destinations(folder: Path) -> Iterator[dict[str, StoreScp]]:
    """Store SCPs by AE title: one takes everything, one only Implicit VR."""
    options = {"ANYTHING": ["+xa"], "IMPLICIT": ["+xi"]}
    made = {}
    for ae_title, option in options.items():
        made[ae_title] = StoreScp(folder / ae_title, ae_title, option)
    yield made
    for scp in made.values():
        scp.stop()


@pytest.fixture(scope="module")
def orthanc(folder: Path, destinations: dict[str, StoreScp]) -> Iterator[LocalOrthanc]:
    modalities: dict[str, Any] = {
        scp.ae_title.lower(): [scp.ae_title, "127.0.0.1", scp.port] for scp in destinations.values()
    }
    modalities["away"] = ["AWAY", "127.0.0.1", free_port()]
    server = LocalOrthanc(folder / "orthanc", {"DicomModalities": modalities})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def worker(folder: Path, orthanc: LocalOrthanc) -> Iterator[ScpWorker]:
    made = ScpWorker(folder / "worker", orthanc.http_port, dicom_settings())
    yield made
    made.stop()


@pytest.fixture
def archive(orthanc: LocalOrthanc) -> LocalOrthanc:
    """Orthanc with nothing but pydicom's real files."""
    orthanc.empty()
    for path in real_files():
        orthanc.store(path.read_bytes())
    return orthanc


def content(data_set: Dataset) -> Dataset:
    """Without what DCMTK's tools change when they send: group lengths, padding at the end, the VR of pixel data."""
    kept = Dataset()
    for element in data_set:
        if element.tag.element and element.tag != 0xFFFCFFFC:
            kept.add_new(element.tag, "OB" if element.keyword == "PixelData" else element.VR, element.value)
    return kept


def send(port: int, encoded: bytes, sop_instance_uid: str, transfer_syntax: str = ExplicitVRLittleEndian) -> int:
    """C-STORE of exactly these bytes."""
    contexts = [(str(CTImageStorage), (transfer_syntax,))]
    with open_association("127.0.0.1", port, "MODALITY", "ORTHANC", contexts) as association:
        return association.store(io.BytesIO(encoded), str(CTImageStorage), sop_instance_uid, transfer_syntax)


# --- C-STORE


def test_ps34_b_4_1_real_files_in_every_transfer_syntax_arrive_unchanged(
    orthanc: LocalOrthanc, worker: ScpWorker
) -> None:
    orthanc.empty()
    assert worker.peer.send(*real_files()).exit_code == 0
    client = OrthancClient(OrthancSettings(url=f"http://127.0.0.1:{orthanc.http_port}"))
    stored = {}
    for orthanc_id in orthanc.request("/instances"):
        data_set = dcmread(client.instance_file(orthanc_id))
        stored[data_set.SOPInstanceUID] = data_set
    sent = [dcmread(path) for path in real_files()]
    assert len(stored) == len(sent)
    for data_set in sent:
        received = stored[data_set.SOPInstanceUID]
        assert content(received) == content(data_set)
        if data_set.file_meta.TransferSyntaxUID.is_compressed:  # dcmsend re-encodes the others to what we prefer
            assert received.file_meta.TransferSyntaxUID == data_set.file_meta.TransferSyntaxUID
        assert received.file_meta.SourceApplicationEntityTitle == "MODALITY"
        assert received.preamble == bytes(128)


def test_the_bytes_of_a_data_set_are_those_that_were_sent(
    orthanc: LocalOrthanc, worker: ScpWorker, tmp_path: Path
) -> None:
    orthanc.empty()
    (path,) = write_series(tmp_path, 1)
    file = io.BytesIO(path.read_bytes())
    meta = read_file_meta(file)
    encoded = file.read()
    assert send(worker.port, encoded, meta.sop_instance_uid) == 0x0000
    (orthanc_id,) = orthanc.request("/instances")
    client = OrthancClient(OrthancSettings(url=f"http://127.0.0.1:{orthanc.http_port}"))
    assert client.instance_file(orthanc_id).read().endswith(encoded)
    assert send(worker.port, encoded, meta.sop_instance_uid) == 0x0000, "already stored is a success"


@pytest.mark.parametrize(
    ("encoded", "status"),
    [
        (b"%PDF-1.7 not DICOM at all ", 0xC000),
        (b"", 0xC000),
        (b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0\x08\x00\x18\x00UI\x04\x001.2\0", 0xA900),
        (b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0\x08\x00\x18\x00UI\x04\x001.1\0", 0xC000),
    ],
    ids=["no DICOM", "nothing", "another instance", "no study"],
)
def test_ps34_table_b_2_1_what_cannot_be_stored_gets_its_status_and_leaves_nothing(
    orthanc: LocalOrthanc, worker: ScpWorker, encoded: bytes, status: int
) -> None:
    orthanc.empty()
    assert send(worker.port, encoded, "1.1") == status
    assert orthanc.request("/statistics")["CountInstances"] == 0
    assert f"store_refused status=0x{status:04X}" in worker.output()


def test_ps34_table_b_2_1_without_orthanc_a_store_is_a700(folder: Path, tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, 1, side=16)
    alone = ScpWorker(folder / "alone", free_port(), dicom_settings())
    try:
        assert alone.peer.store(path).statuses == [0xA700]
        assert alone.peer.find("QueryRetrieveLevel=STUDY", "StudyInstanceUID").statuses == [0xC000]
        assert alone.peer.move("ANYTHING", "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1").statuses == [0xC000]
    finally:
        alone.stop()


# --- C-FIND


def found(answer: Answer) -> list[str]:
    """The answers in a form that two servers can be compared by."""
    ignored = ("SpecificCharacterSet", "RetrieveAETitle", "TimezoneOffsetFromUTC")  # Orthanc never says by which clock
    texts = []
    for data_set in answer.data_sets:
        values = {e.keyword: str(e.value or "") for e in data_set if e.keyword not in ignored}
        texts.append(json.dumps(values, sort_keys=True))
    return sorted(texts)


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("-P", ["QueryRetrieveLevel=PATIENT", "PatientID", "PatientName", "NumberOfPatientRelatedInstances"]),
        ("-P", ["QueryRetrieveLevel=PATIENT", "PatientID", "PatientName=CompressedSamples*"]),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "PatientID=4MR1"]),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "StudyDate=20040101-20041231", "PatientName"]),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "StudyDate=19900101-20040826", "StudyTime"]),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "ModalitiesInStudy=CT\\MR", "PatientID"]),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "NumberOfStudyRelatedSeries", "ModalitiesInStudy"]),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "NumberOfStudyRelatedInstances", "SOPClassesInStudy"]),
        ("-S", [*SERIES, "Modality=MR"]),
        (
            "-S",
            [*SERIES, "NumberOfSeriesRelatedInstances"],
        ),
        (
            "-S",
            [*IMAGE, "InstanceNumber=1"],
        ),
        ("-S", [*IMAGE, "SOPClassUID"]),
        (
            "-S",
            [*IMAGE, "Rows", "Columns"],
        ),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", "PatientID=nobody"]),
    ],
)
def test_ps34_c_4_1_answers_are_those_of_orthancs_own_scp(
    archive: LocalOrthanc, worker: ScpWorker, model: str, keys: list[str]
) -> None:
    ours = worker.peer.find(*keys, model=model)
    theirs = Peer(archive.dicom_port).find(*keys, model=model)
    assert ours.statuses[-1] == 0x0000
    assert found(ours) == found(theirs)


def test_ps34_c_4_1_1_3_2_an_answer_names_the_clock_of_its_times_where_the_index_knows_it(
    archive: LocalOrthanc, worker: ScpWorker
) -> None:
    """Newer ones know it by default."""
    answers = worker.peer.find("QueryRetrieveLevel=STUDY", "StudyInstanceUID", "StudyTime").data_sets
    named = {answer.StudyInstanceUID: answer.get("TimezoneOffsetFromUTC") for answer in answers}
    true = {image.StudyInstanceUID: image.get("TimezoneOffsetFromUTC") for image in map(dcmread, real_files())}
    assert set(true.values()) > {None}
    index = archive.request("/system").get("MainDicomTags", {}).get("Study", "")
    assert named == (true if "0008,0201" in index else dict.fromkeys(true))


@pytest.mark.parametrize(
    "keys",
    [
        ["PatientID=4MR1"],
        ["QueryRetrieveLevel=", "PatientID"],
        ["QueryRetrieveLevel=GALAXY"],
        ["QueryRetrieveLevel=STUDY", "StudyDate=yesterday"],
    ],
)
def test_ps34_table_c_4_1_absurd_queries_get_a900_and_a_comment(
    archive: LocalOrthanc, worker: ScpWorker, keys: list[str]
) -> None:
    answer = worker.peer.find(*keys)
    assert answer.statuses == [0xA900]
    assert worker.peer.echo().exit_code == 0


NASTY_NAMES = (
    "Doe^Jane",
    "DOE^JANE^^^",
    "Núñez^Juan",
    "nunez^juan",
    "D_E%^J",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    " Lead^Space",
    "A",
    "",
)
NASTY_IDS = ("ID 1", "ID_1", "id_1", "ID%1", "ID_", "IÐ1", "*", "00ID_1", "")
NASTY_DATES = ("20240229", "2024.02.29", "20231231", "")
KEYS = {
    "PatientName": (
        "doe^jane", "DOE^*", "*u?ez*", "núñez^juan", "d_e%^j", "山田*", "yamada^tarou", "lead*", "?", "D_E*", "*",
    ),
    "PatientID": ("ID 1", "ID_1", "ID_*", "ID?1", "I?1", "*1", "ID%1", "IÐ1", "\\*", "ID*", "ID_"),
    "StudyDate": ("20240229", "20240101-", "-20240229", "20240229-20240229", "20231231-20240228"),
}  # fmt: skip


@pytest.fixture(scope="module")
def nasty(orthanc: LocalOrthanc) -> list[Dataset]:
    """Data sets full of what Orthanc's index changes or compares in its own way; Orthanc holds them all."""
    orthanc.empty()
    made = []
    for number, (name, patient) in enumerate(product(NASTY_NAMES, NASTY_IDS)):
        date = NASTY_DATES[number % len(NASTY_DATES)]
        data_set = instance(
            SpecificCharacterSet="ISO_IR 192", PatientName=name, PatientID=patient, StudyDate=date,
            StudyInstanceUID=f"1.{number}", SeriesInstanceUID=f"1.{number}.1", SOPInstanceUID=f"1.{number}.1.1",
        )  # fmt: skip
        made.append(data_set)
        orthanc.store(FakeOrthanc([data_set]).instance_file("I0").read())
    return made


@pytest.mark.parametrize(
    ("keyword", "value"), [(keyword, value) for keyword, values in KEYS.items() for value in values]
)
def test_no_match_is_lost_in_orthancs_index(
    orthanc: LocalOrthanc, nasty: list[Dataset], keyword: str, value: str
) -> None:
    """The answers over Orthanc's candidates are those over all data sets."""

    def studies(client: OrthancClient) -> list[str]:
        identifier = Dataset()
        identifier.SpecificCharacterSet = "ISO_IR 192"
        identifier.QueryRetrieveLevel = "STUDY"
        setattr(identifier, keyword, value)
        request = RecordedRequest(None, STUDY_FIND, keys=identifier)
        FindService(DicomSettings, client).serve(request)
        assert request.final.status == 0x0000
        return sorted(
            r.identifier.StudyInstanceUID for r in request.responses[:-1] if isinstance(r.identifier, Dataset)
        )

    real = OrthancClient(OrthancSettings(url=f"http://127.0.0.1:{orthanc.http_port}"))
    assert studies(real) == studies(FakeOrthanc(nasty))


# --- C-MOVE and C-GET


def received(scp: StoreScp) -> dict[str, Dataset]:
    return {str(data_set.SOPInstanceUID): data_set for data_set in scp.received()}


def all_studies(orthanc: LocalOrthanc) -> str:
    uids = [study["MainDicomTags"]["StudyInstanceUID"] for study in orthanc.request("/studies?expand")]
    return "StudyInstanceUID=" + "\\".join(uids)


def test_ps34_c_4_2_a_move_delivers_every_instance_as_stored(
    archive: LocalOrthanc, worker: ScpWorker, destinations: dict[str, StoreScp]
) -> None:
    answer = worker.peer.move("ANYTHING", "QueryRetrieveLevel=STUDY", all_studies(archive))
    assert answer.statuses == [0xFF00] * (len(real_files()) - 1) + [0x0000]
    arrived = received(destinations["ANYTHING"])
    for path in real_files():
        sent = dcmread(path)
        assert content(arrived[sent.SOPInstanceUID]) == content(sent)
        assert arrived[sent.SOPInstanceUID].file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def test_a_destination_of_implicit_vr_only_gets_what_orthanc_can_convert(
    archive: LocalOrthanc, worker: ScpWorker, destinations: dict[str, StoreScp]
) -> None:
    """Debian's Orthanc cannot decode JPEG 2000: those two fail, and only those."""
    answer = worker.peer.move("IMPLICIT", "QueryRetrieveLevel=STUDY", all_studies(archive))
    assert answer.statuses[-1] == 0xB000
    arrived = received(destinations["IMPLICIT"])
    failed = {dcmread(path).SOPInstanceUID for path in real_files() if "jp2k" in path.name or "jpeg2k" in path.name}
    assert set(arrived) == {dcmread(path).SOPInstanceUID for path in real_files()} - failed
    assert {data_set.file_meta.TransferSyntaxUID for data_set in arrived.values()} == {ImplicitVRLittleEndian}
    assert all(uid in answer.output for uid in failed), "FailedSOPInstanceUIDList"


@pytest.mark.parametrize(
    ("destination", "keys", "status"),
    [
        ("AWAY", ["QueryRetrieveLevel=PATIENT", "PatientID=4MR1"], 0xA702),
        ("NOBODY", ["QueryRetrieveLevel=PATIENT", "PatientID=4MR1"], 0xA801),
        ("ANYTHING", ["QueryRetrieveLevel=PATIENT", "PatientID="], 0xA900),
        ("ANYTHING", ["QueryRetrieveLevel=PATIENT", "PatientID=*"], 0x0000),
        ("ANYTHING", ["QueryRetrieveLevel=PATIENT", "PatientID=unknown"], 0x0000),
    ],
)
def test_ps34_table_c_4_2_moves_that_cannot_be_done_get_their_status(
    archive: LocalOrthanc, worker: ScpWorker, destination: str, keys: list[str], status: int
) -> None:
    answer = worker.peer.move(destination, *keys, model="-P")
    assert answer.statuses == [status]


def test_what_an_administrator_changes_while_running_holds_for_the_next_move(
    archive: LocalOrthanc, worker: ScpWorker, destinations: dict[str, StoreScp]
) -> None:
    body = json.dumps(["LATE", "127.0.0.1", destinations["ANYTHING"].port]).encode()
    archive.request("/modalities/late", body, "PUT")
    answer = worker.peer.move("LATE", "QueryRetrieveLevel=PATIENT", "PatientID=4MR1", model="-P")
    assert answer.statuses[-1] == 0x0000
    archive.request("/modalities/late", method="DELETE")


def test_ps34_c_4_3_getscu_receives_on_its_own_association(
    archive: LocalOrthanc, worker: ScpWorker, tmp_path: Path
) -> None:
    source = dcmread(next(path for path in real_files() if path.name == "CT_small.dcm"))
    answer = worker.peer.get(tmp_path, "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={source.StudyInstanceUID}")
    assert answer.statuses[-1] == 0x0000
    (path,) = tmp_path.iterdir()
    assert content(dcmread(path)) == content(source)


def test_ps34_c_4_3_3_1_a_cancel_during_a_get_starts_no_further_sub_operation(
    orthanc: LocalOrthanc, worker: ScpWorker, tmp_path: Path
) -> None:
    """Pynetdicom as requester cancels while it is being sent the first image."""
    orthanc.empty()
    study = generate_uid()
    for path in write_series(tmp_path, 6, study=study, side=16):
        orthanc.store(path.read_bytes())

    def cancel(event: Any) -> int:
        event.assoc.send_c_cancel(1, query_model=STUDY_GET)
        return 0x0000

    entity = AE("MODALITY")
    entity.add_requested_context(STUDY_GET)
    entity.add_requested_context(CTImageStorage)
    role = build_role(CTImageStorage, scp_role=True)
    association = entity.associate("127.0.0.1", worker.port, ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, cancel)])
    assert association.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study
    *_, (status, _) = association.send_c_get(identifier, STUDY_GET)
    association.release()
    assert status.Status == 0xFE00
    assert (status.NumberOfCompletedSuboperations, status.NumberOfRemainingSuboperations) == (1, 5)


def test_an_asynchronous_move_is_a_job_of_orthancs(
    archive: LocalOrthanc, folder: Path, destinations: dict[str, StoreScp]
) -> None:
    background = ScpWorker(folder / "background", archive.http_port, dicom_settings(synchronous_c_move=False))
    before = set(archive.request("/jobs"))
    try:
        answer = background.peer.move("ANYTHING", "QueryRetrieveLevel=STUDY", all_studies(archive))
    finally:
        background.stop()
    assert answer.statuses == [0x0000]
    (job,) = set(archive.request("/jobs")) - before

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = archive.request(f"/jobs/{job}")
        return state if state["State"] in ("Success", "Failure") else None

    state = wait_until(ended, 30, "the job has ended")
    assert state is not None
    assert state["State"] == "Success"
    assert state["Content"]["InstancesCount"] == len(real_files())


def test_a_series_with_made_up_images_moves_completely(
    orthanc: LocalOrthanc, worker: ScpWorker, destinations: dict[str, StoreScp], tmp_path: Path
) -> None:
    orthanc.empty()
    study = generate_uid()
    paths = write_series(tmp_path, 40, study=study, side=64)
    assert worker.peer.send(*paths).exit_code == 0
    answer = worker.peer.move("ANYTHING", "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}")
    assert answer.statuses == [0xFF00] * 39 + [0x0000]
    arrived = received(destinations["ANYTHING"])
    assert {dcmread(path).SOPInstanceUID for path in paths} <= set(arrived)
