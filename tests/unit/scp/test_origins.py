"""Where instances came from: noted at once, told later, never forgotten by a worker that dies."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import FileIO
from pathlib import Path

import pytest

from scp import origins as module
from scp.origins import BATCH, Origin, Origins
from scp.orthanc_client import OrthancClient, OrthancUnreachable
from tests.fakes.scp_workers import eventually

ORIGIN = Origin("i", "s", "CT1", "ISEN", "192.0.2.7")


class Told(OrthancClient):
    """Remembers what it was told; `fails` times it is away first."""

    def __init__(self, *, fails: int = 0, supported: bool = True) -> None:
        self.batches: list[list[dict[str, str]]] = []
        self.fails = fails
        self.supported = supported
        self.gate = threading.Event()
        self.gate.set()

    def set_origins(self, origins: Sequence[Mapping[str, str]]) -> bool:
        self.gate.wait(10)
        if self.fails:
            self.fails -= 1
            raise OrthancUnreachable("POST /isen/origins: away")
        self.batches.append([dict(one) for one in origins])
        return self.supported

    @property
    def all(self) -> list[dict[str, str]]:
        return [one for batch in self.batches for one in batch]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET", 0.05)
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(module, "_PAUSE", 0.01)


def numbered(count: int) -> list[Origin]:
    return [Origin(f"i{number}", "s", "CT1", "ISEN", "192.0.2.7") for number in range(count)]


def test_what_was_noted_is_told_in_batches_and_then_forgotten(tmp_path: Path) -> None:
    client = Told()
    origins = Origins(tmp_path, client)
    noted = numbered(BATCH + 5)
    for origin in noted:
        origins.note(origin)
    origins.start()
    eventually(lambda: os.listdir(tmp_path) == [])
    assert client.all == [asdict(origin) for origin in noted]
    assert [len(batch) for batch in client.batches] == [BATCH, 5]


def test_while_images_arrive_orthanc_is_left_alone_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUIET", 60.0)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.3)
    client = Told()
    origins = Origins(tmp_path, client)
    origins.start()
    origins.note(ORIGIN)
    assert client.batches == []
    eventually(lambda: client.all == [asdict(ORIGIN)])


def test_orthanc_is_told_again_when_it_was_away(tmp_path: Path) -> None:
    client = Told(fails=3)
    origins = Origins(tmp_path, client)
    origins.start()
    origins.note(ORIGIN)
    eventually(lambda: client.all == [asdict(ORIGIN)])
    eventually(lambda: os.listdir(tmp_path) == [])


def test_what_a_dead_worker_has_left_is_told_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "left.jsonl").write_bytes(
        b'{"Instance": "i", "Series": "s", "RemoteAET": "CT1", "CalledAET": "ISEN", "RemoteIP": "192.0.2.7"}\n{"Inst'
    )
    client = Told()
    Origins(tmp_path, client).start()
    eventually(lambda: client.all == [asdict(ORIGIN)])  # without the line that a power cut has cut off
    eventually(lambda: os.listdir(tmp_path) == [])


def test_what_a_living_worker_writes_is_left_to_it(tmp_path: Path) -> None:
    living = Origins(tmp_path, Told())
    living.note(ORIGIN)
    client = Told()
    other = Origins(tmp_path, client)
    other.start()
    other.note(Origin("j", "s", "CT1", "ISEN", "192.0.2.7"))
    eventually(lambda: len(os.listdir(tmp_path)) == 1)
    assert [one["Instance"] for one in client.all] == ["j"]


@pytest.mark.parametrize("has_removed", [False, True])
def test_a_worker_that_starts_takes_no_file_from_under_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_removed: bool
) -> None:
    """It may see a file that its owner has made and not locked yet."""
    lock, taken = fcntl.flock, []

    def lock_late(file: FileIO, operation: int) -> None:
        if not taken:
            taken.append(open(file.name, "rb"))  # noqa: SIM115 - closed below
            lock(taken[0], fcntl.LOCK_EX)
            if has_removed:
                os.unlink(file.name)
                taken[0].close()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    client = Told()
    origins = Origins(tmp_path, client)
    origins.note(ORIGIN)
    if not has_removed:
        os.unlink(taken[0].name)
    taken[0].close()
    origins.start()
    eventually(lambda: client.all == [asdict(ORIGIN)])


def test_a_disk_that_fails_does_not_end_the_telling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = Told()
    origins = Origins(tmp_path, client)
    origins.note(ORIGIN)
    (path,) = tmp_path.iterdir()
    path.unlink()
    origins.start()
    eventually(lambda: "origins_not_told reason=No such file or directory" in caplog.text)
    origins.note(ORIGIN)
    eventually(lambda: client.all == [asdict(ORIGIN)])


def test_every_line_is_in_the_file_before_the_peer_is_answered(tmp_path: Path) -> None:
    """A worker may be killed at any time after that."""
    origins = Origins(tmp_path, Told())
    for count in (1, 2, 3):
        origins.note(ORIGIN)
        (path,) = tmp_path.iterdir()
        assert path.read_bytes().count(b"\n") == count


def test_an_orthanc_that_cannot_is_not_asked_twice(tmp_path: Path) -> None:
    client = Told(supported=False)
    client.gate.clear()
    origins = Origins(tmp_path, client)
    origins.note(ORIGIN)
    origins.start()
    eventually(lambda: origins._file is None)  # being told
    origins.note(ORIGIN)
    client.gate.set()
    eventually(lambda: os.listdir(tmp_path) == [])
    origins.note(ORIGIN)
    assert os.listdir(tmp_path) == []
    assert len(client.batches) == 1


def test_a_full_disk_does_not_keep_an_image_from_being_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_locked", fail)
    Origins(tmp_path, Told()).note(ORIGIN)
    assert "origin_not_noted instance=i reason=No space left on device" in caplog.text
