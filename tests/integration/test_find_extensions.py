"""What C-FIND offers beyond the baseline, over the wire: pynetdicom negotiates it, a real Orthanc has the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from tests.fakes.archive import instance
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
DICTIONARY: dict[str, tuple[str | int, ...]] = {"0011,1001": ("LO", "TubeSerial", 1, 1, "ACME 1.1")}
NAMES = {  # by study: SpecificCharacterSet and PatientName, the examples of PS3.5 Annexes H to K
    "9.1": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "9.2": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "9.3": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "9.4": ("GB18030", "Wang^XiaoDong=王^小东"),
    "9.5": ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    "9.6": ("ISO_IR 100", "Müller^Élodie"),
    "9.7": (["", "ISO 2022 IR 159"], "Test=丂^丄"),
}
# Orthanc's index keeps the bytes of code extensions that it does not know as text: stored in ISO_IR 192 here
UNKNOWN_TO_ORTHANC = {"9.2", "9.7"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(scope="module")
def orthanc(folder: Path) -> Iterator[LocalOrthanc]:
    server = LocalOrthanc(folder / "orthanc", {"Dictionary": DICTIONARY})
    for study, (own, name) in NAMES.items():
        character_set = "ISO_IR 192" if study in UNKNOWN_TO_ORTHANC else own
        server.store(encoded(image(study, SpecificCharacterSet=character_set, PatientName=name)))
    for study, syntax in (("10.1", ExplicitVRLittleEndian), ("10.2", ImplicitVRLittleEndian)):
        tube = image(study, SpecificCharacterSet="ISO_IR 100", StudyDate="20240301", StudyTime="003000")
        tube.private_block(0x0011, "OTHER", create=True).add_new(0x01, "LO", "Röhre 9")
        tube.private_block(0x0011, "ACME 1.1", create=True).add_new(0x01, "LO", f"Röhre {study}")
        server.store(encoded(tube, syntax))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def worker(folder: Path, orthanc: LocalOrthanc) -> Iterator[ScpWorker]:
    made = ScpWorker(folder / "worker", orthanc.http_port, dicom_settings(), dictionary=DICTIONARY)
    yield made
    made.stop()


def image(study: str, **attributes: Any) -> Dataset:
    uids = {"SeriesInstanceUID": f"{study}.1", "SOPInstanceUID": f"{study}.1.1"}
    return instance(PatientID=study, StudyInstanceUID=study, **{"StudyDate": "", "StudyTime": "", **uids, **attributes})


def encoded(dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    buffer = DicomBytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def find(
    worker: ScpWorker, keys: Dataset, extended: bytes = b"", transfer_syntax: str = ExplicitVRLittleEndian
) -> tuple[list[Dataset], bytes]:
    """The answers, and the application information that was negotiated."""
    entity = AE("MODALITY")
    entity.add_requested_context(STUDY_FIND, transfer_syntax)
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = UID(STUDY_FIND), extended
    association = entity.associate("127.0.0.1", worker.port, ext_neg=[item] if extended else [])
    assert association.is_established
    negotiated = association.acceptor.sop_class_extended.get(UID(STUDY_FIND), b"")
    keys.QueryRetrieveLevel = "STUDY"
    responses = list(association.send_c_find(keys, STUDY_FIND))
    association.release()
    *pending, (final, _) = responses
    assert final.Status == 0x0000
    return [identifier for _, identifier in pending if identifier is not None], negotiated


def studies(answers: list[Dataset]) -> list[str]:
    return sorted(answer.StudyInstanceUID for answer in answers)


@pytest.mark.parametrize("character_set", ["its own", "ISO_IR 192"])
@pytest.mark.parametrize("study", NAMES)
def test_ps35_6_1_keys_in_every_character_set_find_names_in_every_other(
    worker: ScpWorker, study: str, character_set: str
) -> None:
    """And the character set of the answer is one that has all its characters (PS3.4 C.4.1.1.3.2)."""
    own, name = NAMES[study]
    keys = Dataset()
    keys.SpecificCharacterSet = own if character_set == "its own" else character_set
    keys.PatientName = name
    answers, _ = find(worker, keys)
    assert studies(answers) == [study]
    answer = Dataset.from_json(answers[0].to_json())
    assert str(answer.PatientName).rstrip("=") == name
    assert answer.SpecificCharacterSet == ("ISO_IR 100" if study == "9.6" else "ISO_IR 192")


@pytest.mark.parametrize(
    ("encoding", "study", "expected"),
    [
        ("JapaneseKanji", "9.1", ["", "ISO 2022 IR 87"]),
        ("Korean", "9.3", ["", "ISO 2022 IR 149"]),
        ("Chinese", "9.4", "GB18030"),
        ("SimplifiedChinese", "9.4", "ISO_IR 192"),
        ("SimplifiedChinese", "9.6", "ISO_IR 192"),
        ("Korean", "9.1", "ISO_IR 192"),
    ],
)
def test_ps33_c_12_1_1_2_answers_in_orthancs_default_encoding_with_code_extensions(
    orthanc: LocalOrthanc, worker: ScpWorker, encoding: str, study: str, expected: str | list[str]
) -> None:
    orthanc.put_text("/tools/default-encoding", encoding)
    try:
        keys = Dataset()
        keys.StudyInstanceUID, keys.PatientName = study, ""
        ((answer,), _) = find(worker, keys)
    finally:
        orthanc.put_text("/tools/default-encoding", "Latin1")
    assert answer.SpecificCharacterSet == expected
    assert str(answer.PatientName).rstrip("=") == NAMES[study][1]


@pytest.mark.parametrize("study", ["10.1", "10.2"], ids=["stored in Explicit VR", "stored in Implicit VR"])
@pytest.mark.parametrize(
    "transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"]
)
def test_private_attributes_of_orthancs_dictionary_are_keys(
    worker: ScpWorker, study: str, transfer_syntax: str
) -> None:
    """PS3.5 7.8.1: by their creator. In Implicit VR only the dictionary tells that they are text."""
    keys = Dataset()
    keys.SpecificCharacterSet = "ISO_IR 192"
    keys.StudyDate = "20240301"
    keys.private_block(0x0011, "ACME 1.1", create=True).add_new(0x01, "LO", f"R?hre {study}")
    answers, _ = find(worker, keys, transfer_syntax=transfer_syntax)
    assert studies(answers) == [study]
    value = answers[0].private_block(0x0011, "ACME 1.1")[0x01].value
    assert value in (f"Röhre {study}", f"Röhre {study}".encode("latin_1"))


def test_ps34_c_5_1_1_fuzzy_names(worker: ScpWorker) -> None:
    keys = Dataset()
    keys.PatientName = "Elodie Mueller"
    assert find(worker, keys)[0] == []
    answers, negotiated = find(worker, keys, b"\1\1\1")
    assert negotiated == b"\1\1\1"
    assert studies(answers) == ["9.6"]


def test_ps34_c_5_1_1_timezone_adjustment(worker: ScpWorker) -> None:
    """By the machine's clock the studies began at half past midnight; ten hours to the west it was the day before."""
    keys = Dataset()
    keys.StudyDate, keys.StudyTime, keys.TimezoneOffsetFromUTC = "20240229", "", "-1000"
    assert find(worker, keys)[0] == []
    answers, negotiated = find(worker, keys, b"\0\0\0\1")
    assert negotiated == b"\0\0\0\1"
    assert studies(answers) == ["10.1", "10.2"]
    for answer in answers:
        assert (answer.StudyDate, answer.StudyTime, answer.TimezoneOffsetFromUTC) == ("20240229", "143000", "-1000")
