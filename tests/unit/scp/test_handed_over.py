"""Whether a file that was handed over is used: its bytes are verified, or were a moment ago."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from backend.stack.processes import wait_until
from scp import handed_over
from scp.attachments import AttachmentFiles
from tests.fakes.transfer_thread import Transfer
from tests.unit.scp.transfer_files import CONTENT, UUID, hand_over, is_open


class PageCache:
    """In place of preadv(2): whether the test's own folder can tell what is cached depends on its file system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cached: int | None) -> None:
        """`cached`: how many bytes are; None, the file system cannot tell."""
        self.calls = 0
        self._cached = cached
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        self.calls += 1
        if self._cached is None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        content = os.pread(descriptor, self._cached, offset)
        buffers[0][: len(content)] = content
        return len(content)


Opened = Callable[[str, int], BinaryIO | None]


@pytest.fixture(params=["asked for", "delivered"])
def opened_of(request: pytest.FixtureRequest, files: AttachmentFiles) -> Iterator[Opened]:
    """Both ways to a file, for what they have in common."""
    deliveries = files.deliveries()

    def take(uuid: str, size: int) -> BinaryIO | None:
        deliveries.announce([(uuid, size)])
        return deliveries.take(uuid, size) if deliveries.expects(uuid) else None

    yield files.open if request.param == "asked for" else take
    deliveries.close()


def test_the_file_is_read_from_the_descriptor(opened_of: Opened, transfer: Transfer, tmp_path: Path) -> None:
    hand_over(transfer, tmp_path / "file")
    for _ in range(3):
        opened = opened_of(UUID, len(CONTENT))
        assert opened
        with opened:
            assert opened.read() == CONTENT


def test_a_large_file_is_not_taken_into_memory(
    opened_of: Opened, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed_over, "MEMORY_LIMIT", 100)
    hand_over(transfer, tmp_path / "file")
    opened = opened_of(UUID, len(CONTENT))
    assert opened
    with opened:
        assert opened.fileno() > 2
        assert opened.read() == CONTENT


@pytest.mark.parametrize("memory", [100, 10_000_000])
def test_damaged_bytes_are_left_to_orthanc(
    opened_of: Opened, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(handed_over, "MEMORY_LIMIT", memory)
    hand_over(transfer, tmp_path / "file", digest_of=b"what was stored")
    assert opened_of(UUID, len(CONTENT)) is None


def test_what_was_just_verified_is_not_verified_again(
    opened_of: Opened, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over(transfer, tmp_path / "file", digest_of=b"nobody looks at it", verified=0.01)
    PageCache(monkeypatch, len(CONTENT))
    opened = opened_of(UUID, len(CONTENT))
    assert opened
    with opened:
        assert opened.read() == CONTENT
        opened.seek(1)
        opened.write(b"x")  # nothing holds its buffer
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "it is closed at both ends")


def test_unless_that_was_too_long_ago(
    opened_of: Opened, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have written it to the disk meanwhile, and may read it from there again."""
    page_cache = PageCache(monkeypatch, len(CONTENT))
    hand_over(transfer, tmp_path / "file", digest_of=b"what was stored", verified=handed_over._TRUSTED)
    assert opened_of(UUID, len(CONTENT)) is None
    assert page_cache.calls == 0


@pytest.mark.parametrize("cached", [None, len(CONTENT) - 1])
def test_or_the_disk_has_to_be_read(
    opened_of: Opened, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: int | None
) -> None:
    page_cache = PageCache(monkeypatch, cached)
    hand_over(transfer, tmp_path / "file", digest_of=b"what was stored", verified=0.01)
    assert opened_of(UUID, len(CONTENT)) is None
    hand_over(transfer, tmp_path / "file", verified=0.01)
    opened = opened_of(UUID, len(CONTENT))
    assert opened
    with opened:
        assert opened.read() == CONTENT
    assert page_cache.calls == 2


@pytest.mark.parametrize("memory", [100, 10_000_000])
def test_or_it_is_too_large_or_not_of_the_size_that_is_known(
    opened_of: Opened, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(handed_over, "MEMORY_LIMIT", memory)
    page_cache = PageCache(monkeypatch, len(CONTENT))
    hand_over(transfer, tmp_path / "file", verified=0.01)
    opened = opened_of(UUID, len(CONTENT) + (memory > 100))
    assert (opened is None) == (memory > 100)
    if opened:
        opened.close()
    assert page_cache.calls == 0


def test_a_file_that_orthanc_has_compressed_is_left_to_it(
    opened_of: Opened, transfer: Transfer, tmp_path: Path
) -> None:
    hand_over(transfer, tmp_path / "file")
    assert opened_of(UUID, len(CONTENT) + 1) is None


@pytest.mark.parametrize("uuid", ["", "../../etc/passwd", UUID + ".dcm"])
def test_what_is_no_uuid_is_asked_for_nowhere(opened_of: Opened, transfer: Transfer, uuid: str) -> None:
    assert opened_of(uuid, 1) is None
    assert transfer.requests == []


def test_no_descriptor_stays_open(opened_of: Opened, transfer: Transfer, tmp_path: Path) -> None:
    hand_over(transfer, tmp_path / "file")
    for size in (1, len(CONTENT)):
        opened = opened_of(UUID, size)
        assert (opened is None) == (size == 1)
        if opened:
            opened.close()
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "it is closed at both ends")


def test_a_disk_that_fails_is_left_to_orthanc_and_told(
    opened_of: Opened,
    transfer: Transfer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    hand_over(transfer, tmp_path / "file")
    monkeypatch.setattr(os, "pread", fail)
    assert opened_of(UUID, len(CONTENT)) is None
    assert f"attachment_unreadable uuid={UUID} reason=" in caplog.text
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "it is closed at both ends")
