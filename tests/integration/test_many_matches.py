"""Queries that match nearly everything: memory stays bounded, and a C-CANCEL ends them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from tests.fakes.archive import instance
from tests.fakes.crowded_index import crowd
from tests.fakes.orthanc_index import FakeOrthanc
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
BASE, PER_MATCH = 12 * 2**20, 256  # bytes of a worker that a query may take; what is kept of a match is its identifier


class Crowd(NamedTuple):
    """An archive of many studies, and a worker in front of it."""

    orthanc: LocalOrthanc
    worker: ScpWorker

    def peak(self) -> int:
        """Bytes of memory that the worker has had at most."""
        status = Path(f"/proc/{self.worker.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Callable[[int], Crowd]]:
    made: list[Crowd] = []

    def build(studies: int) -> Crowd:
        folder = tmp_path / "orthanc"
        first = LocalOrthanc(folder)
        uids = {"StudyInstanceUID": "1.5", "SeriesInstanceUID": "1.5.1", "SOPInstanceUID": "1.5.1.0"}
        first.store(FakeOrthanc([instance(**uids)]).instance_file("I0").read())
        first.stop()
        crowd(folder / "index" / "index", studies)
        orthanc = LocalOrthanc(folder)
        made.append(Crowd(orthanc, ScpWorker(tmp_path / "worker", orthanc.http_port, dicom_settings())))
        return made[-1]

    yield build
    for one in made:
        one.worker.stop()
        one.orthanc.stop()


@pytest.mark.parametrize("studies", [2000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_memory_is_bounded_however_many_matches_there_are(
    crowded: Callable[[int], Crowd], tmp_path: Path, studies: int
) -> None:
    """With computed attributes, which are worked out for a batch of matches at a time."""
    archive = crowded(studies)
    assert archive.worker.peer.find("QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.5").statuses == [0xFF00, 0x0000]
    before = archive.peak()
    keys = ("QueryRetrieveLevel=STUDY", "StudyInstanceUID", "PatientName", "NumberOfStudyRelatedInstances")
    command = ["findscu", "-v", "-S", "-aec", "ORTHANC", "127.0.0.1", str(archive.worker.port)]
    with (tmp_path / "answers").open("wb") as output:
        words = [word for key in keys for word in ("-k", key)]
        subprocess.run([*command, *words], stdout=output, stderr=subprocess.STDOUT, check=True, timeout=600)
    answers = (tmp_path / "answers").read_text(errors="replace")
    assert answers.count("Find Response: ") == studies
    assert "Received Final Find Response (Success)" in answers
    assert archive.peak() - before < BASE + studies * PER_MATCH


def test_ps34_c_4_1_3_1_a_cancel_ends_a_query_of_thousands_of_matches(crowded: Callable[[int], Crowd]) -> None:
    studies = 2000
    archive = crowded(studies)
    entity = AE("MODALITY")
    entity.add_requested_context(STUDY_FIND)
    association = entity.associate("127.0.0.1", archive.worker.port)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID, keys.PatientName = "STUDY", "", ""
    statuses = []
    for status, _ in association.send_c_find(keys, STUDY_FIND, msg_id=7):
        statuses.append(status.Status)
        if len(statuses) == 5:
            association.send_c_cancel(7, query_model=STUDY_FIND)
    assert statuses[-1] == 0xFE00
    assert len(statuses) < studies
    association.release()
    assert archive.worker.peer.echo().exit_code == 0
