"""What an administrator changes through Orthanc's REST API holds for the very next association, without a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

from backend.stack.samples import real_files
from scp.store_association import AssociationRefused, open_association
from tests.fakes.archive import instance
from tests.fakes.orthanc_index import FakeOrthanc
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

CT, PRIVATE = str(CTImageStorage), "1.3.46.670589.2.5.1.1"
J2K, EXPLICIT = str(JPEG2000Lossless), str(ExplicitVRLittleEndian)
STUDY = ("QueryRetrieveLevel=STUDY", "StudyInstanceUID=8.1", "PatientName")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("administration")


@pytest.fixture(scope="module")
def orthanc(folder: Path) -> Iterator[LocalOrthanc]:
    server = LocalOrthanc(folder / "orthanc", {"DicomModalitiesInDatabase": True})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def worker(folder: Path, orthanc: LocalOrthanc) -> Iterator[ScpWorker]:
    made = ScpWorker(folder / "worker", orthanc.http_port, dicom_settings(modalities_in_database=True))
    yield made
    made.stop()


def put(orthanc: LocalOrthanc, path: str, content: str | list[Any]) -> None:
    orthanc.request(path, (content if isinstance(content, str) else json.dumps(content)).encode(), "PUT")


def accepted(worker: ScpWorker, sop_class_uid: str, transfer_syntax: str) -> bool:
    """Whether a context of this kind is accepted in an association that is made now."""
    contexts = [(sop_class_uid, (transfer_syntax,))]
    try:
        with open_association("127.0.0.1", worker.port, "MODALITY", "ORTHANC", contexts) as association:
            return association.accepts(sop_class_uid, transfer_syntax)
    except AssociationRefused:
        return False


def test_tools_accepted_transfer_syntaxes(orthanc: LocalOrthanc, worker: ScpWorker) -> None:
    before = orthanc.request("/tools/accepted-transfer-syntaxes")
    assert accepted(worker, CT, J2K)
    put(orthanc, "/tools/accepted-transfer-syntaxes", [uid for uid in before if uid != J2K])
    assert not accepted(worker, CT, J2K)
    assert accepted(worker, CT, EXPLICIT)
    put(orthanc, "/tools/accepted-transfer-syntaxes", before)
    assert accepted(worker, CT, J2K)


def test_tools_unknown_sop_class_accepted(orthanc: LocalOrthanc, worker: ScpWorker) -> None:
    for value in ("0", "1", "0"):
        orthanc.put_text("/tools/unknown-sop-class-accepted", value)
        assert accepted(worker, PRIVATE, EXPLICIT) is (value == "1")


def test_tools_default_encoding(orthanc: LocalOrthanc, worker: ScpWorker) -> None:
    """It is the character set of answers, and of requests and instances that name none."""
    data_set = instance(
        SpecificCharacterSet="ISO_IR 192", PatientName="Διονυσιος", StudyInstanceUID="8.1", SeriesInstanceUID="8.1.1"
    )
    orthanc.store(FakeOrthanc([data_set]).instance_file("I0").read())
    for name, expected in (("Utf8", "ISO_IR 192"), ("Greek", "ISO_IR 126"), ("Latin1", "ISO_IR 192")):
        orthanc.put_text("/tools/default-encoding", name)
        (answer,) = worker.peer.find(*STUDY).data_sets
        assert answer.SpecificCharacterSet == expected
        assert str(answer.PatientName) == "Διονυσιος"


def test_modalities_in_the_database(orthanc: LocalOrthanc, folder: Path) -> None:
    """Who is not open to all is known by its modality: from when it is added until it is removed."""
    closed = {f"always_allow_{service}": False for service in ("echo", "store", "find", "get", "move")}
    settings = dicom_settings(modalities_in_database=True, **closed)
    put(orthanc, "/modalities/modality", ["MODALITY", "127.0.0.1", 104])  # or the fixture waits for ever
    worker = ScpWorker(folder / "closed", orthanc.http_port, settings)
    try:
        orthanc.request("/modalities/modality", method="DELETE")
        refused = worker.peer.echo()
        assert refused.exit_code != 0
        assert "Calling AE Title Not Recognized" in refused.output
        put(orthanc, "/modalities/modality", ["MODALITY", "127.0.0.1", 104])
        assert worker.peer.echo().exit_code == 0
        flags = {"AET": "MODALITY", "Host": "127.0.0.1", "Port": 104, "AllowStore": False}
        orthanc.request("/modalities/modality", json.dumps(flags).encode(), "PUT")
        assert worker.peer.echo().exit_code == 0
        assert worker.peer.send(real_files()[0]).sent == 0, "AllowStore"
        orthanc.request("/modalities/modality", method="DELETE")
        assert worker.peer.echo().exit_code != 0
    finally:
        worker.stop()
