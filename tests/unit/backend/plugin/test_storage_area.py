"""The first storage API with `Durability` "ObjectStore": for what a sender waits until S3 has it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.plugin.attachments import Attachments
from backend.plugin.storage_area import StorageArea
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool
from tests.fakes.transfer_thread import Transfer
from tests.unit.backend.plugin.test_storage_area3 import STORAGE, Host

FILE = "11111111-2222-3333-4444-555555555555"
HEAD = "22222222-2222-3333-4444-555555555555"
OTHER_HEAD = "33333333-2222-3333-4444-555555555555"
DICOM, JSON, BEGINNING = 1, 2, 3  # Orthanc's content types


@pytest.fixture
def area(tmp_path: Path, transfer: Transfer) -> StorageArea:
    host = Host()
    spool = Spool(tmp_path / "spool", maximum_size=1_000_000)
    client = TransferClient(tmp_path / "transfer.sock")
    attachments = Attachments(spool, tmp_path / "cache", client, log_error=host.LogError)
    return StorageArea(host, attachments, {**STORAGE, "Durability": "ObjectStore"})


def pending(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "spool" / "pending")


def asked_for(transfer: Transfer) -> list[str]:
    return [request["Name"] for request in transfer.requests]


def test_the_sender_waits_for_s3_once_for_the_file_and_its_beginning(
    area: StorageArea, transfer: Transfer, tmp_path: Path
) -> None:
    area.create(FILE, DICOM, b"head and pixels")
    area.create(HEAD, BEGINNING, b"head")
    assert asked_for(transfer) == [FILE + ".dcm"]
    assert pending(tmp_path) == [HEAD + ".dcm.head"]
    assert (tmp_path / "spool" / "pending" / (HEAD + ".dcm.head")).read_bytes() == b"head"


@pytest.mark.parametrize("head", [b"HEAD", b"head and pixels and more", b"x" * 70_000])
def test_what_is_not_the_beginning_of_that_file_waits_for_s3(
    area: StorageArea, transfer: Transfer, tmp_path: Path, head: bytes
) -> None:
    """Compressed attachments are not, and of very long ones it is not known."""
    area.create(FILE, DICOM, b"x" * 80_000 if head[:1] == b"x" else b"head and pixels")
    area.create(HEAD, BEGINNING, head)
    assert asked_for(transfer) == [FILE + ".dcm", HEAD + ".dcm.head"]
    assert pending(tmp_path) == []


def test_only_the_file_that_the_same_thread_stored_just_before_counts(
    area: StorageArea, transfer: Transfer, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as other_thread:
        other_thread.submit(area.create, FILE, DICOM, b"head and pixels").result()
        area.create(HEAD, BEGINNING, b"head")
        assert pending(tmp_path) == []
        other_thread.submit(area.create, OTHER_HEAD, BEGINNING, b"head").result()
    assert pending(tmp_path) == [OTHER_HEAD + ".dcm.head"]


def test_a_file_that_s3_has_not_confirmed_is_no_reason_to_trust_its_beginning(
    area: StorageArea, transfer: Transfer, tmp_path: Path
) -> None:
    transfer.answer = lambda _: ({"Result": "error", "Error": "unreachable", "Message": "why"}, [])
    for _ in range(2):
        with pytest.raises(Exception, match="why"):
            area.create(FILE, DICOM, b"head and pixels")
    with pytest.raises(Exception, match="why"):
        area.create(HEAD, BEGINNING, b"head")
    assert pending(tmp_path) == []


def test_every_other_attachment_waits_for_s3(area: StorageArea, transfer: Transfer, tmp_path: Path) -> None:
    area.create(HEAD, JSON, b"{}")
    assert asked_for(transfer) == [HEAD + ".json"]
    assert pending(tmp_path) == []


def test_a_removal_is_noted_and_one_that_fails_is_logged_and_told_orthanc(
    area: StorageArea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area.remove(FILE, DICOM)
    assert os.listdir(tmp_path / "spool" / "tombstones") == [FILE + ".dcm"]

    def fails(*_: object, **_options: object) -> None:
        raise OSError(5, "Input/output error")

    lines: list[str] = []
    monkeypatch.setattr(Spool, "bury", fails)
    monkeypatch.setattr(area, "_log_error", lines.append)
    with pytest.raises(OSError, match="Input/output"):
        area.remove(FILE, DICOM)
    assert lines == [f"remove_failed name={FILE}.dcm error=OSError reason=[Errno 5] Input/output error"]
