"""Create, read and remove over real folders and a real socket; the transfer process is a thread of the test."""

from __future__ import annotations

import errno
import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backend.atomic_file import write_digest
from backend.cache import cache_path
from backend.custom_data import CustomData
from backend.plugin.attachments import Attachments, CorruptedAttachment
from backend.plugin.transfer_client import TransferClient, TransferError
from backend.spool import REPLACED_BY, Spool, SpoolFull
from backend.storage_directory import StorageDirectory, storage_path
from config.arrival import arrival_name
from tests.fakes.transfer_thread import Answer, Transfer

NAME = "11111111-2222-3333-4444-555555555555.dcm"


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", maximum_size=1000)


@pytest.fixture
def attachments(tmp_path: Path, transfer: Transfer, spool: Spool, errors: list[str]) -> Attachments:
    return Attachments(spool, tmp_path / "cache", TransferClient(tmp_path / "transfer.sock"), log_error=errors.append)


def put_in_cache(tmp_path: Path, content: bytes, digest_of: bytes) -> Path:
    path = cache_path(tmp_path / "cache", NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    write_digest(path, sha256(digest_of).digest())
    return path


def serve_file(tmp_path: Path, content: bytes, digest_of: bytes) -> Answer:
    path = tmp_path / "fetched"
    path.write_bytes(content)
    write_digest(path, sha256(digest_of).digest())
    return lambda _: ({"Result": "ok", "Size": len(content)}, [os.open(path, os.O_RDONLY)])


def test_create_is_pending_and_wakes_the_transfer_process(
    attachments: Attachments, spool: Spool, transfer: Transfer
) -> None:
    attachments.create_in_spool(NAME, b"image")
    assert (spool.directory / "pending" / NAME).read_bytes() == b"image"
    assert transfer.woken.wait(10)
    assert attachments.read(NAME) == b"image"


def test_create_takes_over_what_a_worker_has_stored_and_counts_it(attachments: Attachments, spool: Spool) -> None:
    (spool.directory / "arriving" / arrival_name(b"image", 5)).write_bytes(b"image")
    attachments.create_in_spool(NAME, b"image")
    assert (attachments.counters["creates"], attachments.counters["creates_taken_over"]) == (1, 1)
    assert attachments.read(NAME) == b"image"
    attachments.create_in_spool(f"{NAME}.head", b"ima")
    assert (attachments.counters["creates"], attachments.counters["creates_taken_over"]) == (2, 1)


def is_in_doubt(spool: Spool, name: str) -> bool:
    return (spool.directory / "tombstones" / name).stat().st_size > 0


def test_a_removal_of_what_the_thread_has_just_created_is_in_doubt(attachments: Attachments, spool: Spool) -> None:
    """Orthanc could not commit it, or believes so."""
    other = NAME.replace("1", "2")
    attachments.create_in_spool(NAME, b"image")
    attachments.remove(NAME)
    assert is_in_doubt(spool, NAME)
    attachments.create_in_spool(other, b"image")
    attachments.remove("33333333-2222-3333-4444-555555555555.dcm")
    attachments.remove(other)
    assert not is_in_doubt(spool, other), "there was a commit in between"


def test_a_removal_by_another_thread_is_in_no_doubt(
    attachments: Attachments, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.plugin.attachments._KNOWN_THREADS", 1)
    attachments.create_in_spool(NAME, b"image")
    thread = threading.Thread(target=attachments.create_in_spool, args=(f"{NAME}.head", b"image"))
    thread.start()
    thread.join()
    attachments.remove(f"{NAME}.head")
    attachments.remove(NAME)
    assert not is_in_doubt(spool, f"{NAME}.head")
    assert not is_in_doubt(spool, NAME), "of so many threads not all are remembered"


def replaced_by(spool: Spool, name: str) -> str | None:
    try:
        return os.getxattr(spool.directory / "tombstones" / name, REPLACED_BY).decode()
    except OSError:
        return None


def test_a_removal_tells_which_image_the_thread_has_created_last(attachments: Attachments, spool: Spool) -> None:
    """It may have taken the place of what is removed: Orthanc has compressed the file, say."""
    old, new = NAME.replace("1", "2"), NAME
    attachments.create_in_spool(new, b"image")
    attachments.create_in_spool(f"{new}.head", b"ima")
    for name in (old, f"{old}.head", new):
        attachments.remove(name)
    assert replaced_by(spool, old) == replaced_by(spool, f"{old}.head") == new
    assert replaced_by(spool, new) is None


def test_a_removal_tells_of_no_image_of_another_thread(
    attachments: Attachments, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = NAME.replace("1", "2")
    thread = threading.Thread(target=attachments.create_in_spool, args=(NAME, b"image"))
    thread.start()
    thread.join()
    attachments.remove(other)
    assert replaced_by(spool, other) is None
    monkeypatch.setattr("backend.plugin.attachments._KNOWN_THREADS", 1)
    attachments.create_in_spool(f"{NAME}.head", b"ima")
    assert not attachments._created_images, "of so many threads not all are remembered"


def test_create_with_object_store_durability_returns_after_s3_has_confirmed(
    attachments: Attachments, spool: Spool, transfer: Transfer
) -> None:
    def upload(request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        (spool.directory / "incoming" / request["Name"]).unlink()
        return {"Result": "ok"}, []

    transfer.answer = upload
    attachments.create_in_object_store(NAME, b"image", 5)
    assert transfer.requests == [{"Operation": "upload", "Name": NAME, "Timeout": 5}]
    assert spool.used == 0
    assert list((spool.directory / "pending").iterdir()) == []


@pytest.mark.parametrize("error", ["unreachable", "denied", "timeout"])
def test_an_unconfirmed_upload_is_refused_and_leaves_only_a_tombstone(
    attachments: Attachments, spool: Spool, transfer: Transfer, error: str
) -> None:
    transfer.answer = lambda _: ({"Result": "error", "Error": error, "Message": "no"}, [])
    with pytest.raises(TransferError) as raised:
        attachments.create_in_object_store(NAME, b"image", 5)
    assert raised.value.kind == error
    assert [path.name for path in spool.directory.rglob("*.dcm")] == [NAME]
    assert (spool.directory / "tombstones" / NAME).exists()
    assert spool.used == 0


def test_an_upload_that_is_never_answered_is_refused_in_time(attachments: Attachments, transfer: Transfer) -> None:
    never = threading.Event()
    transfer.answer = lambda _: (never.wait(30), None)[1]  # type: ignore[func-returns-value]
    with pytest.raises(TransferError) as raised:
        attachments.create_in_object_store(NAME, b"image", 0.2)
    assert raised.value.kind == "timeout"
    never.set()


def test_a_full_spool_refuses_with_both_durabilities(attachments: Attachments) -> None:
    with pytest.raises(SpoolFull):
        attachments.create_in_spool(NAME, b"x" * 1001)
    with pytest.raises(SpoolFull):
        attachments.create_in_object_store(NAME, b"x" * 1001, 1)


def test_read_prefers_the_spool_then_the_cache_then_s3(
    attachments: Attachments, spool: Spool, transfer: Transfer, tmp_path: Path
) -> None:
    transfer.answer = serve_file(tmp_path, b"from S3", b"from S3")
    assert attachments.read(NAME) == b"from S3"
    put_in_cache(tmp_path, b"from cache", b"from cache")
    assert attachments.read(NAME) == b"from cache"
    spool.accept(NAME, b"from spool")
    assert attachments.read(NAME) == b"from spool"
    assert len(transfer.requests) == 1


def test_a_damaged_cache_file_is_dropped_and_fetched_again(
    attachments: Attachments, transfer: Transfer, tmp_path: Path, errors: list[str]
) -> None:
    path = put_in_cache(tmp_path, b"damaged", b"image")
    transfer.answer = serve_file(tmp_path, b"image", b"image")
    assert attachments.read(NAME) == b"image"
    assert not path.exists()
    assert errors == [f"cache_corrupted name={NAME} action=fetch_again"]


def test_a_cache_file_that_the_disk_cannot_read_is_dropped_and_fetched_again(
    attachments: Attachments, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = put_in_cache(tmp_path, b"image", b"image")
    transfer.answer = serve_file(tmp_path, b"image", b"image")
    bad_sector = cached.stat().st_ino

    def pread(descriptor: int, size: int, offset: int, read: Any = os.pread) -> bytes:
        if os.fstat(descriptor).st_ino == bad_sector:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(read(descriptor, size, offset))

    monkeypatch.setattr(os, "pread", pread)
    assert attachments.read(NAME) == b"image"
    assert not cached.exists()


def test_damaged_bytes_are_never_served(
    attachments: Attachments, spool: Spool, transfer: Transfer, tmp_path: Path
) -> None:
    transfer.answer = serve_file(tmp_path, b"damaged", b"image")
    with pytest.raises(CorruptedAttachment, match="CacheDirectory"):
        attachments.read(NAME)
    spool.accept(NAME, b"image")
    (spool.directory / "pending" / NAME).write_bytes(b"imagE")
    with pytest.raises(CorruptedAttachment, match="spool"):
        attachments.read(NAME)
    assert attachments.counters["corrupted"] == 2


def test_a_missing_object_is_told_from_an_unreachable_one(attachments: Attachments, transfer: Transfer) -> None:
    for kind in ("missing", "unreachable", "denied"):
        transfer.answer = lambda _, kind=kind: ({"Result": "error", "Error": kind, "Message": "why"}, [])  # type: ignore[misc]
        with pytest.raises(TransferError, match="why") as raised:
            attachments.read(NAME)
        assert raised.value.kind == kind


def test_a_transfer_process_that_dies_while_it_answers_is_asked_again(
    attachments: Attachments, transfer: Transfer, tmp_path: Path
) -> None:
    good = serve_file(tmp_path, b"image", b"image")
    transfer.answer = good
    assert attachments.read(NAME) == b"image"
    transfer.answer = lambda request: None if len(transfer.requests) == 2 else good(request)
    assert attachments.read(NAME) == b"image"
    assert len(transfer.requests) == 3


def test_a_transfer_process_that_cannot_be_reached_is_not_asked_all_the_time(
    attachments: Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many open files each try fails at once, and each holds the GIL."""
    tries: list[Path] = []

    def connect(path: Path) -> None:
        tries.append(path)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("backend.messages.connect", connect)
    monkeypatch.setattr("backend.plugin.attachments.FETCH_TIMEOUT", 0.5)
    with pytest.raises(TransferError, match="does not answer"):
        attachments.read(NAME)
    assert 2 <= len(tries) <= 30


def test_remove_buries_and_wakes(attachments: Attachments, spool: Spool, transfer: Transfer) -> None:
    attachments.remove(NAME)
    assert (spool.directory / "tombstones" / NAME).exists()
    assert transfer.woken.wait(10)


@pytest.fixture
def hybrid(
    tmp_path: Path, transfer: Transfer, spool: Spool, errors: list[str], storage_directory: StorageDirectory
) -> Attachments:
    """HybridMode: attachments of Orthanc's own storage area are read too."""
    client = TransferClient(tmp_path / "transfer.sock")
    return Attachments(spool, tmp_path / "cache", client, log_error=errors.append, storage_directory=storage_directory)


@pytest.fixture
def storage_directory(tmp_path: Path) -> StorageDirectory:
    made = StorageDirectory(tmp_path / "storage")
    made.directory.mkdir()
    made.recover()
    return made


def left_by_orthanc(storage_directory: StorageDirectory, content: bytes) -> Path:
    path = storage_path(storage_directory.directory, NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def missing(_: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    return {"Result": "error", "Error": "missing", "Message": "S3 has none"}, []


def test_a_file_of_orthancs_is_read_without_asking_s3(
    hybrid: Attachments, transfer: Transfer, storage_directory: StorageDirectory, spool: Spool, tmp_path: Path
) -> None:
    left_by_orthanc(storage_directory, b"from Orthanc")
    assert hybrid.read(NAME) == b"from Orthanc"
    assert hybrid.read_range(NAME, 5, 8, None) == b"Ort"
    assert hybrid.counters["reads_storage_directory"] == 2
    put_in_cache(tmp_path, b"from cache", b"from cache")
    assert hybrid.read(NAME) == b"from cache"
    spool.accept(NAME, b"from spool")
    assert hybrid.read(NAME) == b"from spool"
    assert transfer.requests == []


def test_what_that_folder_does_not_have_comes_from_s3(hybrid: Attachments, transfer: Transfer, tmp_path: Path) -> None:
    transfer.answer = serve_file(tmp_path, b"from S3", b"from S3")
    assert hybrid.read(NAME) == b"from S3"
    transfer.answer = missing
    with pytest.raises(TransferError, match="S3 has none"):
        hybrid.read(NAME)


def test_writing_to_the_file_system_asks_nobody_and_is_verified_on_each_read(
    hybrid: Attachments, transfer: Transfer, storage_directory: StorageDirectory, spool: Spool, errors: list[str]
) -> None:
    hybrid.create_in_storage_directory(NAME, b"image")
    path = storage_path(storage_directory.directory, NAME)
    assert path.read_bytes() == b"image"
    assert hybrid.read(NAME) == b"image"
    assert (transfer.requests, list((spool.directory / "pending").iterdir())) == ([], [])
    path.write_bytes(b"imagE")
    transfer.answer = missing
    for read in (lambda: hybrid.read(NAME), lambda: hybrid.read_range(NAME, 0, 2, None)):
        with pytest.raises(CorruptedAttachment, match="StorageDirectory"):
            read()
    assert errors == [f"storage_directory_corrupted name={NAME} action=ask_object_store"] * 2


def test_a_damaged_file_gives_way_to_the_object(
    hybrid: Attachments, transfer: Transfer, storage_directory: StorageDirectory, tmp_path: Path
) -> None:
    path = left_by_orthanc(storage_directory, b"damaged")
    write_digest(path, sha256(b"image").digest())
    transfer.answer = serve_file(tmp_path, b"image", b"image")
    assert hybrid.read(NAME) == b"image"
    path.unlink()
    left_by_orthanc(storage_directory, b"damaged")  # of which only Orthanc's index knows
    known = CustomData.of(b"image", NAME)
    assert hybrid.read(NAME, known) == b"image"
    assert hybrid.read_range(NAME, 1, 3, known) == b"ma"


@pytest.mark.parametrize("kind", ["missing", "unreachable"])
def test_a_folder_that_cannot_be_read_does_not_make_an_attachment_missing(
    hybrid: Attachments, transfer: Transfer, storage_directory: StorageDirectory, kind: str, tmp_path: Path
) -> None:
    (storage_directory.directory / NAME[:2]).write_bytes(b"in the way")
    transfer.answer = lambda _: ({"Result": "error", "Error": kind, "Message": "no"}, [])
    with pytest.raises(NotADirectoryError if kind == "missing" else TransferError):
        hybrid.read(NAME)
    transfer.answer = serve_file(tmp_path, b"from S3", b"from S3")
    assert hybrid.read(NAME) == b"from S3"
