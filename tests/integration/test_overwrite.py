"""An instance that is there already: Orthanc's OverwriteInstances decides, as with its own SCP on the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from backend.stack.dcmtk import Peer
from tests.fakes.images import write_series
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings


@pytest.fixture(params=[False, True], ids=["Never", "Always"])
def overwrites(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def orthanc(tmp_path: Path, overwrites: bool) -> Iterator[LocalOrthanc]:
    server = LocalOrthanc(tmp_path / "orthanc", {"OverwriteInstances": overwrites})
    yield server
    server.stop()


def test_the_status_is_success_and_the_later_one_is_kept_only_if_it_overwrites(
    orthanc: LocalOrthanc, overwrites: bool, tmp_path: Path
) -> None:
    worker = ScpWorker(tmp_path / "worker", orthanc.http_port, dicom_settings())
    kept = {}
    try:
        for name, port in (("orthanc", orthanc.dicom_port), ("isen", worker.port)):
            orthanc.empty()
            (first,) = write_series(tmp_path / name, 1, side=16)
            data_set = dcmread(first)
            data_set.StudyDescription = "later"
            second = tmp_path / name / "second.dcm"
            data_set.save_as(second)
            for path in (first, second):
                assert Peer(port).send(path).sent == 1
            (instance,) = orthanc.request("/instances")
            kept[name] = dcmread(BytesIO(orthanc.file(instance))).get("StudyDescription")
    finally:
        worker.stop()
    assert kept["isen"] == kept["orthanc"]
    assert (kept["isen"] == "later") is overwrites
