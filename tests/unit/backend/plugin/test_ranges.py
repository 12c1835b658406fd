"""Ranges of attachments: from the spool, the cache and S3, and never a byte that was not stored."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backend.atomic_file import write_digest
from backend.cache import cache_path
from backend.custom_data import CHUNK, LARGE, CustomData
from backend.plugin.attachments import Attachments, CorruptedAttachment
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool
from tests.fakes.transfer_thread import Transfer

NAME = "11111111-2222-3333-4444-555555555555.dcm"
CONTENT = os.urandom(2 * LARGE)
KNOWN = CustomData.of(CONTENT, NAME)
START, END = CHUNK - 10, CHUNK + 10  # crosses a border


class S3:
    """Answers fetch and fetch-range with `content`, whatever was stored."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self._path = folder / "object"
        self.content = content

    def __call__(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        part = self.content[request.get("Start", 0) : request.get("End")]
        self._path.write_bytes(part)
        write_digest(self._path, sha256(part).digest())
        return {"Result": "ok"}, [os.open(self._path, os.O_RDONLY)]


@pytest.fixture
def s3(tmp_path: Path, transfer: Transfer) -> S3:
    transfer.answer = s3 = S3(tmp_path, CONTENT)
    return s3


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", maximum_size=100 * LARGE)


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def attachments(tmp_path: Path, spool: Spool, s3: S3, errors: list[str]) -> Attachments:
    return Attachments(spool, tmp_path / "cache", TransferClient(tmp_path / "transfer.sock"), log_error=errors.append)


def put_in_cache(folder: Path, content: bytes) -> Path:
    path = cache_path(folder / "cache", NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    write_digest(path, sha256(content).digest())
    return path


def damaged(*, at: int) -> bytes:
    content = bytearray(CONTENT)
    content[at] ^= 1
    return bytes(content)


def operations(transfer: Transfer) -> list[str]:
    return [request["Operation"] for request in transfer.requests]


def test_a_range_of_a_local_file_asks_nobody(
    attachments: Attachments, spool: Spool, transfer: Transfer, tmp_path: Path
) -> None:
    put_in_cache(tmp_path, CONTENT)
    assert attachments.read_range(NAME, START, END, KNOWN) == CONTENT[START:END]
    spool.accept(NAME, CONTENT)
    assert attachments.read_range(NAME, START, END, KNOWN) == CONTENT[START:END]
    assert (attachments.counters["reads_cache"], attachments.counters["reads_spool"]) == (1, 1)
    assert transfer.requests == []


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (START, END), (3 * CHUNK, 4 * CHUNK), (2 * LARGE - 1, 2 * LARGE), (2 * LARGE - 5, 3 * LARGE)],
)
def test_a_range_of_a_large_object_moves_only_its_chunks(
    attachments: Attachments, transfer: Transfer, start: int, end: int
) -> None:
    assert attachments.read_range(NAME, start, end, KNOWN) == CONTENT[start:end]
    (request,) = transfer.requests
    assert request["Operation"] == "fetch-range"
    assert request["End"] - request["Start"] <= 2 * CHUNK
    assert attachments.counters["reads_range"] == 1


def test_once_a_quarter_has_been_fetched_in_ranges_the_whole_is_fetched(
    attachments: Attachments, transfer: Transfer
) -> None:
    for start in range(0, 2 * LARGE, CHUNK):
        assert attachments.read_range(NAME, start, start + 100, KNOWN) == CONTENT[start : start + 100]
        if operations(transfer)[-1] == "fetch":
            break
    assert operations(transfer) == ["fetch-range"] * 8 + ["fetch"]


def test_a_large_part_is_fetched_whole_at_once(attachments: Attachments, transfer: Transfer) -> None:
    assert attachments.read_range(NAME, 0, LARGE, KNOWN) == CONTENT[:LARGE]
    assert attachments.read_range(NAME, 0, 2 * LARGE, KNOWN) == CONTENT
    assert operations(transfer) == ["fetch", "fetch"]


def test_a_range_too_large_for_memory_is_fetched_with_the_whole(
    attachments: Attachments, transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.plugin.attachments._LARGEST_RANGE", CHUNK)
    assert attachments.read_range(NAME, START, END, KNOWN) == CONTENT[START:END]
    assert operations(transfer) == ["fetch"]


def test_of_how_many_objects_ranges_are_counted_is_bounded(
    attachments: Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was read longest ago is forgotten."""
    monkeypatch.setattr("backend.plugin.attachments._KNOWN_RANGES", 2)
    for name in ("a", "b", "a", "c"):
        attachments.read_range(name, START, END, KNOWN)
    assert list(attachments._fetched_in_ranges) == ["a", "c"]


@pytest.mark.parametrize("known", [None, CustomData.of(CONTENT[:LARGE], NAME)])
def test_without_digests_of_chunks_the_whole_is_fetched_and_verified(
    attachments: Attachments, transfer: Transfer, s3: S3, known: CustomData | None
) -> None:
    """Small ones, and those that were stored through the older API."""
    s3.content = CONTENT[:LARGE]
    assert attachments.read_range(NAME, START, END, known) == CONTENT[START:END]
    assert operations(transfer) == ["fetch"]


def test_a_damaged_range_is_fetched_once_more_with_the_whole(
    attachments: Attachments, transfer: Transfer, s3: S3, errors: list[str]
) -> None:
    s3.content = damaged(at=START - 100)  # in the same chunk, though nobody asked for it
    with pytest.raises(CorruptedAttachment, match="not what was stored"):
        attachments.read_range(NAME, START, END, KNOWN)
    assert operations(transfer) == ["fetch-range", "fetch"]
    assert errors == [f"range_corrupted name={NAME} start=0 end={2 * CHUNK} action=fetch_whole"]
    assert attachments.counters["corrupted"] == 2


@pytest.mark.parametrize("length", [START, CHUNK, END - 1])
def test_an_object_that_is_too_short_is_never_served(
    attachments: Attachments, s3: S3, transfer: Transfer, length: int
) -> None:
    s3.content = CONTENT[:length]
    with pytest.raises(CorruptedAttachment):
        attachments.read_range(NAME, START, END, KNOWN)


def test_damage_elsewhere_in_a_local_file_does_not_hurt(attachments: Attachments, tmp_path: Path) -> None:
    put_in_cache(tmp_path, damaged(at=5 * CHUNK))
    assert attachments.read_range(NAME, START, END, KNOWN) == CONTENT[START:END]


def test_a_damaged_cache_file_is_dropped_and_the_range_fetched(
    attachments: Attachments, tmp_path: Path, transfer: Transfer, errors: list[str]
) -> None:
    path = put_in_cache(tmp_path, damaged(at=START))
    assert attachments.read_range(NAME, START, END, KNOWN) == CONTENT[START:END]
    assert not path.exists()
    assert operations(transfer) == ["fetch-range"]
    assert errors == [f"cache_corrupted name={NAME} action=fetch_again"]


def test_the_index_knows_better_than_the_file(attachments: Attachments, tmp_path: Path, transfer: Transfer) -> None:
    """A file whose own digest is right, of an object that somebody has replaced."""
    put_in_cache(tmp_path, damaged(at=0))
    assert attachments.read_range(NAME, 0, 2 * LARGE, KNOWN) == CONTENT
    assert operations(transfer) == ["fetch"]


def test_a_damaged_spool_file_is_never_served(attachments: Attachments, spool: Spool) -> None:
    spool.accept(NAME, damaged(at=START), KNOWN.digest)
    with pytest.raises(CorruptedAttachment, match="spool"):
        attachments.read_range(NAME, START, END, KNOWN)
