"""`/isen/mpps`: what modalities have reported, as much of it as Orthanc's memory can bear."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backend.plugin import mpps_routes
from backend.plugin.mpps_routes import MppsRoutes


class Output:
    """What Orthanc's Python plugin gives a callback to answer with."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.status = 200

    def AnswerBuffer(self, content: bytes, _mime_type: str) -> None:  # noqa: N802 -- the plugin's name
        self.answer = json.loads(content)

    def SendHttpStatusCode(self, status: int) -> None:  # noqa: N802 -- the plugin's name
        self.status = status


def newest(folder: Path, limit: str | None = None) -> Output:
    routes = MppsRoutes({"Storage": {"SpoolDirectory": str(folder)}, "Dicom": {}})
    output = Output()
    routes.newest(output, "/isen/mpps", method="GET", get={} if limit is None else {"limit": limit})
    return output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten steps of 100 bytes, step 9 the last that was changed."""
    steps = tmp_path / "mpps" / "steps"
    steps.mkdir(parents=True)
    for number in range(10):
        (steps / f"{number}").write_text(json.dumps({"Number": number}).ljust(100))
        os.utime(steps / f"{number}", (number, number))
    return tmp_path


def numbers(output: Output) -> list[int]:
    return [step["Number"] for step in output.answer]


def test_the_last_changed_come_first(folder: Path) -> None:
    assert numbers(newest(folder)) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert numbers(newest(folder, "2")) == [9, 8]
    assert newest(folder.parent / "empty").answer == []


def test_an_answer_has_a_greatest_length(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand steps of 4 MB each, as a modality may report them, would not fit into Orthanc's memory."""
    monkeypatch.setattr(mpps_routes, "_MAXIMUM_BYTES", 350)
    assert numbers(newest(folder)) == [9, 8, 7]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "many", "", "9" * 5000])
def test_other_limits_are_refused(folder: Path, limit: str) -> None:
    assert newest(folder, limit).status == 400
