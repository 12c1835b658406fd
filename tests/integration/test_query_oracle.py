"""DCMTK's dcmqrscp as second opinion: the same instances, the same queries and moves, the answers compared.

dcmqrscp knows hierarchical queries of the attributes that are unique or required (PS3.4 Tables C.6-1 to C.6-5). Where
the two differ the Standard decides, and the table of differences says by which clause.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from backend.stack.dcmtk import Peer, StoreScp
from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

QUOTA = "(1000, 100mb)"
STUDIES = (  # PatientID, PatientName, StudyDate, StudyTime, AccessionNumber, StudyID, Modality
    ("P1", "Doe^Jane", "20240229", "101112", "A1", "1", "CT"),
    ("P1", "Doe^Jane", "20240301", "0800", "A2", "2", "MR"),
    ("P2", "Doe^John", "20240301", "235959.5", "A3", "3", "CT"),
    ("P3", "Smith^Ann^Mary", "20231231", "000000", "B1", "10", "CT"),
    ("P 4", "SMITH", "19991231", "120000", "a1", "11", "MR"),
    ("p1", "Roe", "20240615", "153000", "C[1]", "12", "CT"),
)
SERIES_OF_STUDY, IMAGES_OF_SERIES = 2, 3


class Query(NamedTuple):
    level: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.level} {' '.join(self.keys)}"


AGREED = (
    Query("STUDY", ()),
    *(
        Query("STUDY", (key,))
        for key in (
            "PatientID=P1", "PatientID=P*", "PatientID=P?4", "PatientID=*1", "PatientID=P", "PatientID=*",
            "PatientName=Doe^Jane", "PatientName=Doe*", "PatientName=*Ann*", "PatientName=Do?^J*", "PatientName=SMITH",
            "StudyDate=20240301", "StudyDate=20240229-20240301", "StudyDate=20240301-", "StudyDate=-20231231",
            "StudyTime=080000-120000", "StudyTime=1200-", "StudyTime=-0800", "StudyTime=101112",
            "AccessionNumber=A?", "AccessionNumber=A1", "AccessionNumber=C[1]", "AccessionNumber=*1*",
            "StudyID=1", "StudyID=1*", "StudyInstanceUID=1.2.3.1\\1.2.3.4", "StudyInstanceUID=1.2.3.99",
        )
    ),
    Query("STUDY", ("PatientID=P1", "StudyDate=20240301-")),
    Query("SERIES", ("StudyInstanceUID=1.2.3.1",)),
    Query("SERIES", ("StudyInstanceUID=1.2.3.1", "Modality=CT")),
    Query("SERIES", ("StudyInstanceUID=1.2.3.1", "SeriesNumber=2")),
    Query("SERIES", ("StudyInstanceUID=1.2.3.1", "SeriesInstanceUID=1.2.3.1.1\\1.2.3.1.2")),
    Query("IMAGE", ("StudyInstanceUID=1.2.3.1", "SeriesInstanceUID=1.2.3.1.2")),
    Query("IMAGE", ("StudyInstanceUID=1.2.3.1", "SeriesInstanceUID=1.2.3.1.2", "InstanceNumber=3")),
)  # fmt: skip
ALL, NONE = "123456", ""
DIFFERENT = (  # query, status and studies that Isen answers, those of dcmqrscp, and why ours
    (Query("STUDY", ("PatientName=doe*",)), (0x0000, "123"), (0x0000, NONE), "C.2.2.2.1.1: names may ignore case"),
    (Query("STUDY", ("PatientName=SMITH^*",)), (0x0000, "45"), (0x0000, NONE), "PS3.5 6.2.1.1: SMITH is SMITH^"),
    (Query("STUDY", ("PatientName=Roe^",)), (0x0000, "6"), (0x0000, NONE), "PS3.5 6.2.1.1: Roe is Roe^"),
    (Query("STUDY", ("StudyTime=-2359",)), (0x0000, ALL), (0x0000, "12456"), "C.2.2.2.1.3: 2359 includes 23:59:59"),
    (Query("STUDY", ("StudyDate=*",)), (0x0000, ALL), (0x0000, NONE), "C.2.2.2.4 leaves it open: universal, as sent"),
    (Query("STUDY", ("StudyDate=2024*",)), (0xA900, NONE), (0x0000, NONE), "C.2.2.2.4: no wild cards in DA"),
    (Query("STUDY", ("StudyDate=2024-",)), (0xA900, NONE), (0x0000, NONE), "PS3.5 6.2: 2024 is no DA"),
    (Query("STUDY", ("StudyInstanceUID=1.2.3.*",)), (0xA900, NONE), (0x0000, NONE), "C.2.2.2.4: no wild cards in UI"),
    (Query("STUDY", ("StudyDate=20240229\\20240301",)), (0x0000, "123"), (0x0000, NONE), "C.2.2.2.8 is undefined"),
    (Query("STUDY", ("Modality=MR",)), (0x0000, "25"), (0x0000, ALL), "C.4.1.3.2: relational queries"),
    (Query("STUDY", ("ModalitiesInStudy=MR",)), (0x0000, "25"), (0x0000, ALL), "Table C.3-1: an optional key"),
    (Query("ROOM", ()), (0xA900, NONE), (0xC000, NONE), "Table C.4-1: does not match the SOP class"),
)

REQUIRED = {
    "STUDY": ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"),
    "SERIES": ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber"),
    "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber"),
}


def instances() -> Iterator[Dataset]:
    for study, (patient, name, date, time, accession, study_id, modality) in enumerate(STUDIES, 1):
        for series in range(1, SERIES_OF_STUDY + 1):
            for image in range(1, IMAGES_OF_SERIES + 1):
                made = Dataset()
                made.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
                made.SOPInstanceUID = f"1.2.3.{study}.{series}.{image}"
                made.StudyInstanceUID, made.SeriesInstanceUID = f"1.2.3.{study}", f"1.2.3.{study}.{series}"
                made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = patient, name, "", ""
                made.StudyDate, made.StudyTime, made.StudyID = date, time, study_id
                made.AccessionNumber, made.ReferringPhysicianName = accession, ""
                made.Modality, made.SeriesNumber, made.InstanceNumber = modality, series, image
                made.file_meta = FileMetaDataset()
                made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                yield made


class DcmQrScp:
    """`dcmqrscp` with a database of its own."""

    def __init__(self, folder: Path, destination: StoreScp) -> None:
        database = folder / "database"
        database.mkdir(parents=True)
        self.peer = Peer(free_port(), called="ORACLE")
        configuration = folder / "dcmqrscp.cfg"
        configuration.write_text(
            f"NetworkTCPPort = {self.peer.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\ndestination = ({destination.ae_title}, 127.0.0.1, {destination.port})\nHostTable END\n"
            f"VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nORACLE {database} RW {QUOTA} ANY\nAETable END\n"
        )
        self._process = Process(["dcmqrscp", "-c", str(configuration)], folder / "dcmqrscp.log")
        wait_until(lambda: self.peer.echo().exit_code == 0, 20, "dcmqrscp answers")

    def stop(self) -> None:
        self._process.stop()


class Both(NamedTuple):
    """Isen and the oracle, with the same instances, and where each of them moves to."""

    isen: Peer
    oracle: Peer
    destinations: dict[str, StoreScp]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("oracle")
    destinations = {name: StoreScp(folder / name, name, ["+xa"]) for name in ("FROMISEN", "FROMORACLE")}
    isen_destination = destinations["FROMISEN"]
    modalities = {"destination": [isen_destination.ae_title, "127.0.0.1", isen_destination.port]}
    orthanc = LocalOrthanc(folder / "orthanc", {"DicomModalities": modalities})
    worker = ScpWorker(folder / "worker", orthanc.http_port, dicom_settings())
    oracle = DcmQrScp(folder / "dcmqrscp", destinations["FROMORACLE"])
    files = folder / "files"
    files.mkdir()
    for made in instances():
        made.save_as(files / f"{made.SOPInstanceUID}.dcm", enforce_file_format=True)
    try:
        for peer in (worker.peer, oracle.peer):
            assert peer.store(files).exit_code == 0
        yield Both(worker.peer, oracle.peer, destinations)
    finally:
        for server in (oracle, worker, orthanc, *destinations.values()):
            server.stop()


def answers(peer: Peer, query: Query) -> set[tuple[str, ...]]:
    """Of each answer the values of the unique and required keys; the final status must be success."""
    wanted = REQUIRED[query.level]
    asked = {key.partition("=")[0] for key in query.keys}
    answer = peer.find(f"QueryRetrieveLevel={query.level}", *query.keys, *(key for key in wanted if key not in asked))
    assert answer.statuses[-1] == 0x0000
    found = [tuple(str(one.get(keyword, "")).strip() for keyword in wanted) for one in answer.data_sets]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("query", AGREED, ids=str)
def test_ps34_c_4_1_both_find_the_same(both: Both, query: Query) -> None:
    assert answers(both.isen, query) == answers(both.oracle, query)


@pytest.mark.parametrize(("query", "isens", "oracles", "why"), DIFFERENT, ids=lambda value: str(value)[:40])
def test_where_they_differ_the_standard_decides(
    both: Both, query: Query, isens: tuple[int, str], oracles: tuple[int, str], why: str
) -> None:
    """The answers of dcmqrscp are tested too: a version that agrees moves its line to the queries above."""
    for peer, (status, studies) in ((both.isen, isens), (both.oracle, oracles)):
        answer = peer.find(f"QueryRetrieveLevel={query.level}", "StudyInstanceUID", *query.keys)
        assert answer.statuses[-1] == status, why
        assert sorted(one.StudyInstanceUID.rpartition(".")[2] for one in answer.data_sets) == list(studies), why


MOVES = (
    Query("STUDY", ("StudyInstanceUID=1.2.3.1",)),
    Query("STUDY", ("StudyInstanceUID=1.2.3.2\\1.2.3.3",)),
    Query("SERIES", ("StudyInstanceUID=1.2.3.4", "SeriesInstanceUID=1.2.3.4.2")),
    Query("IMAGE", ("StudyInstanceUID=1.2.3.5", "SeriesInstanceUID=1.2.3.5.1", "SOPInstanceUID=1.2.3.5.1.2")),
    Query("STUDY", ("StudyInstanceUID=1.2.3.99",)),
)


@pytest.mark.parametrize("query", MOVES, ids=str)
def test_ps34_c_4_2_both_move_the_same(both: Both, query: Query) -> None:
    received = []
    for peer, destination in zip((both.isen, both.oracle), both.destinations.values(), strict=True):
        answer = peer.move(destination.ae_title, f"QueryRetrieveLevel={query.level}", *query.keys)
        assert answer.statuses[-1] == 0x0000
        found = {str(one.SOPInstanceUID): one.to_json() for one in destination.received()}
        assert answer.counters == (len(found), 0, 0)
        received.append(found)
        for path in destination.folder.iterdir():
            path.unlink()
    assert received[0] == received[1]
