"""What Orthanc is answered: codes and bytes, and never an exception."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from backend.custom_data import CustomData
from backend.plugin.attachments import Attachments
from backend.plugin.storage_area import StorageArea
from backend.plugin.storage_area3 import StorageArea3
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool, SpoolSuspect
from backend.storage_directory import StorageDirectory, storage_path
from tests.fakes.transfer_thread import Transfer

UUID = "11111111-2222-3333-4444-555555555555"
STORAGE = {
    "StorageStructure": "flat",
    "RootPath": "hospital",
    "Durability": "Spool",
    "HybridMode": "Disabled",
    "ObjectStoreTimeout": 5.0,
}


class Host:
    """Orthanc's numbers and a log."""

    class ErrorCode(IntEnum):
        SUCCESS = 0
        PLUGIN = 1
        NOT_ENOUGH_MEMORY = 4
        INEXISTENT_FILE = 13
        CANNOT_WRITE_FILE = 14
        TIMEOUT = 16
        FULL_STORAGE = 19
        CORRUPTED_FILE = 20
        STORAGE_AREA_PLUGIN = 32
        BAD_RANGE = 41

    def __init__(self) -> None:
        self.errors: list[str] = []

    def LogError(self, line: str) -> None:  # noqa: N802 - Orthanc's name
        self.errors.append(line)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def attachments(tmp_path: Path, transfer: Transfer, host: Host) -> Attachments:
    spool = Spool(tmp_path / "spool", maximum_size=1000)
    return Attachments(spool, tmp_path / "cache", TransferClient(tmp_path / "transfer.sock"), log_error=host.LogError)


@pytest.fixture
def area(host: Host, attachments: Attachments) -> StorageArea3:
    area = StorageArea3(host, attachments, STORAGE)
    area.keeps_custom_data = True
    return area


def failing(kind: str) -> Any:
    return lambda _: ({"Result": "error", "Error": kind, "Message": "why"}, [])


def test_create_gives_the_index_what_it_is_to_keep(area: StorageArea3) -> None:
    code, data = area.create(UUID, 1, 4, b"image", None)
    assert code == 0
    assert data is not None
    known = CustomData.decode(data)
    assert known == CustomData.of(b"image", f"hospital/{UUID}.dcm")
    assert area.read_range(UUID, 1, 0, 5, data) == (0, b"image")
    assert area.read_range(UUID, 1, 1, 3, data) == (0, b"mag")
    assert area.remove(UUID, 1, data) == 0


def test_an_index_without_a_place_for_it_is_given_none(host: Host, attachments: Attachments) -> None:
    """Not b"", which the Python plugin takes for a mistake."""
    assert StorageArea3(host, attachments, STORAGE).create(UUID, 1, 4, b"image", None) == (0, None)


@pytest.mark.parametrize("content_type", [0, 1, 2, 3])
def test_what_one_api_has_stored_the_other_reads(
    host: Host, attachments: Attachments, area: StorageArea3, content_type: int
) -> None:
    older = StorageArea(host, attachments, STORAGE)
    older.create(UUID, content_type, b"image")
    assert area.read_range(UUID, content_type, 0, 5, b"") == (0, b"image")
    assert area.read_range(UUID, content_type, 2, 2, b"") == (0, b"ag")
    newer = UUID.replace("1", "9")
    area.create(newer, content_type, 4, b"newer", None)
    assert older.read(newer, content_type) == b"newer"


def test_a_range_beyond_the_end_is_told(area: StorageArea3, host: Host) -> None:
    _, data = area.create(UUID, 1, 4, b"image", None)
    assert area.read_range(UUID, 1, 3, 5, data or b"") == (41, b"")
    assert "read_failed" in host.errors[0]


def test_a_full_spool_is_full_storage(area: StorageArea3, host: Host) -> None:
    assert area.create(UUID, 1, 4, bytes(1001), None) == (19, None)
    assert "MaximumSpoolSizeMB" in host.errors[0]


@pytest.mark.parametrize(
    ("kind", "code"),
    [("missing", 13), ("corrupted", 20), ("timeout", 16), ("unreachable", 32), ("denied", 32), ("archived", 32)],
)
def test_why_a_read_failed_is_told_apart(
    area: StorageArea3, host: Host, transfer: Transfer, kind: str, code: int
) -> None:
    transfer.answer = failing(kind)
    known = CustomData.of(b"image", "elsewhere/before.dcm")
    assert area.read_range(UUID, 1, 0, 5, known.encode()) == (code, b"")
    assert host.errors == [f"read_failed name={UUID}.dcm key=elsewhere/before.dcm error={kind} reason=why"]


def test_custom_data_of_somebody_else_is_refused(area: StorageArea3, host: Host) -> None:
    assert area.read_range(UUID, 1, 0, 5, b'{"path": "elsewhere"}') == (32, b"")
    assert "another plugin" in host.errors[0]


def test_a_failing_disk_is_told(area: StorageArea3, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **_options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Spool, "accept", fails)
    monkeypatch.setattr(Spool, "bury", fails)
    assert area.create(UUID, 1, 4, b"image", None) == (14, None)
    assert area.remove(UUID, 1, b"") == 14


@pytest.mark.parametrize(
    ("error", "code"), [(SpoolSuspect("why"), 14), (MemoryError(), 4), (ZeroDivisionError("a mistake of ours"), 1)]
)
def test_whatever_goes_wrong_orthanc_is_answered(
    area: StorageArea3, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fails(*_: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(Spool, "accept", fails)
    assert area.create(UUID, 1, 4, b"image", None) == (code, None)


def test_a_store_that_s3_has_not_confirmed_is_refused(host: Host, attachments: Attachments, transfer: Transfer) -> None:
    transfer.answer = failing("unreachable")
    area = StorageArea3(host, attachments, {**STORAGE, "Durability": "ObjectStore"})
    assert area.create(UUID, 1, 4, b"image", None) == (32, None)


def test_with_write_to_file_system_both_apis_write_into_orthancs_folder(
    host: Host, transfer: Transfer, tmp_path: Path
) -> None:
    """What one has stored the other reads; the spool stays empty."""
    spool, folder = Spool(tmp_path / "spool", maximum_size=1000), StorageDirectory(tmp_path / "storage")
    folder.directory.mkdir()
    folder.recover()
    client = TransferClient(tmp_path / "transfer.sock")
    hybrid = Attachments(spool, tmp_path / "cache", client, log_error=host.LogError, storage_directory=folder)
    storage = {**STORAGE, "HybridMode": "WriteToFileSystem"}
    older, newer = StorageArea(host, hybrid, storage), StorageArea3(host, hybrid, storage)
    newer.keeps_custom_data = True
    older.create(UUID, 1, b"image")
    assert newer.read_range(UUID, 1, 1, 3, b"") == (0, b"mag")
    other = UUID.replace("1", "9")
    code, data = newer.create(other, 3, 4, bytes(2000), None)  # more than the spool takes
    assert (code, older.read(other, 3)) == (0, bytes(2000))
    storage_path(folder.directory, other).write_bytes(bytes(1999) + b"x")
    transfer.answer = failing("missing")
    assert newer.read_range(other, 3, 0, 2000, data or b"") == (20, b"")
    assert list((spool.directory / "pending").iterdir()) == []
