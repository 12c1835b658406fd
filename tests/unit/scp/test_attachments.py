"""Files handed over by the transfer process: a thread of the test plays it, over the real socket."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from backend import messages
from backend.atomic_file import write_digest
from backend.stack.processes import wait_until
from config.settings import StorageStructure
from scp import attachments
from scp.attachments import AttachmentFiles
from tests.fakes.transfer_thread import Transfer

UUID = "11111111-2222-3333-4444-555555555555"
CONTENT = b"the image" * 100


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    transfer = Transfer(tmp_path / "transfer.sock")
    yield transfer
    transfer.close()


@pytest.fixture
def files(tmp_path: Path, transfer: Transfer) -> AttachmentFiles:
    return AttachmentFiles(tmp_path, StorageStructure.FLAT)


def hand_over(
    transfer: Transfer, path: Path, content: bytes = CONTENT, digest_of: bytes | None = None, *, verified: bool = False
) -> None:
    path.write_bytes(content)
    write_digest(path, sha256(content if digest_of is None else digest_of).digest())
    transfer.answer = lambda _: ({"Result": "ok", "Verified": verified}, [os.open(path, os.O_RDONLY)])


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


def opened_of(files: AttachmentFiles, uuid: str, size: int) -> BinaryIO | None:
    asked = files.ask(uuid, size)
    return asked.open() if asked else None


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_open(path: Path) -> bool:
    """Whether this process has the file open; the thread that plays the transfer process is in it, too."""
    with os.scandir("/proc/self/fd") as descriptors:
        return any(os.path.lexists(entry) and os.path.realpath(entry) == str(path) for entry in descriptors)


def test_the_file_is_read_from_the_descriptor(files: AttachmentFiles, transfer: Transfer, tmp_path: Path) -> None:
    hand_over(transfer, tmp_path / "file")
    for _ in range(3):
        opened = opened_of(files, UUID, len(CONTENT))
        assert opened
        with opened:
            assert opened.read() == CONTENT
    assert transfer.requests == [{"Operation": "fetch", "Name": UUID + ".dcm", "For": "send"}] * 3


def test_a_large_file_is_not_taken_into_memory(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "MEMORY_LIMIT", 100)
    hand_over(transfer, tmp_path / "file")
    opened = opened_of(files, UUID, len(CONTENT))
    assert opened
    with opened:
        assert opened.fileno() > 2
        assert opened.read() == CONTENT


@pytest.mark.parametrize("memory", [100, 10_000_000])
def test_damaged_bytes_are_left_to_orthanc(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(attachments, "MEMORY_LIMIT", memory)
    hand_over(transfer, tmp_path / "file", digest_of=b"what was stored")
    assert opened_of(files, UUID, len(CONTENT)) is None


def test_what_was_just_verified_is_not_verified_again(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over(transfer, tmp_path / "file", digest_of=b"nobody looks at it", verified=True)
    PageCache(monkeypatch, len(CONTENT))
    opened = opened_of(files, UUID, len(CONTENT))
    assert opened
    with opened:
        assert opened.read() == CONTENT
        opened.seek(1)
        opened.write(b"x")  # nothing holds its buffer
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "it is closed at both ends")


@pytest.mark.parametrize("cached", [None, len(CONTENT) - 1])
def test_unless_the_disk_has_to_be_read(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: int | None
) -> None:
    page_cache = PageCache(monkeypatch, cached)
    hand_over(transfer, tmp_path / "file", digest_of=b"what was stored", verified=True)
    assert opened_of(files, UUID, len(CONTENT)) is None
    hand_over(transfer, tmp_path / "file", verified=True)
    opened = opened_of(files, UUID, len(CONTENT))
    assert opened
    with opened:
        assert opened.read() == CONTENT
    assert page_cache.calls == 2


@pytest.mark.parametrize("memory", [100, 10_000_000])
def test_or_it_is_too_large_or_not_of_the_size_that_is_known(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(attachments, "MEMORY_LIMIT", memory)
    page_cache = PageCache(monkeypatch, len(CONTENT))
    hand_over(transfer, tmp_path / "file", verified=True)
    opened = opened_of(files, UUID, len(CONTENT) + (memory > 100))
    assert (opened is None) == (memory > 100)
    if opened:
        opened.close()
    assert page_cache.calls == 0


def test_a_file_that_orthanc_has_compressed_is_left_to_it(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path
) -> None:
    hand_over(transfer, tmp_path / "file")
    assert opened_of(files, UUID, len(CONTENT) + 1) is None


@pytest.mark.parametrize("uuid", ["", "../../etc/passwd", UUID + ".dcm"])
def test_what_is_no_uuid_is_asked_for_nowhere(files: AttachmentFiles, transfer: Transfer, uuid: str) -> None:
    assert opened_of(files, uuid, 1) is None
    files.announce([(uuid, 1)])
    assert transfer.requests == []


def test_an_error_is_left_to_orthanc_and_the_connection_kept(files: AttachmentFiles, transfer: Transfer) -> None:
    transfer.answer = lambda _: ({"Result": "error", "Error": "missing", "Message": "no"}, [])
    assert opened_of(files, UUID, 1) is None
    before = open_files()
    assert opened_of(files, UUID, 1) is None
    assert open_files() == before


def test_without_a_transfer_process_orthanc_is_asked(tmp_path: Path) -> None:
    files = AttachmentFiles(tmp_path, StorageStructure.FLAT)
    for _ in range(attachments._MAXIMUM_CONNECTIONS + 1):
        assert opened_of(files, UUID, 1) is None
    files.announce([(UUID, 1)])


def test_a_connection_that_was_lost_is_replaced(files: AttachmentFiles, transfer: Transfer, tmp_path: Path) -> None:
    transfer.answer = lambda _: None
    assert opened_of(files, UUID, 1) is None
    hand_over(transfer, tmp_path / "file")
    opened = opened_of(files, UUID, len(CONTENT))
    assert opened
    opened.close()


def test_no_descriptor_stays_open(files: AttachmentFiles, transfer: Transfer, tmp_path: Path) -> None:
    hand_over(transfer, tmp_path / "file")
    for size in (1, len(CONTENT)):
        opened = opened_of(files, UUID, size)
        assert (opened is None) == (size == 1)
        if opened:
            opened.close()
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "it is closed at both ends")


def connections(files: AttachmentFiles) -> tuple[int, int]:
    """All of them, and those that wait for the next request."""
    return files._count, len(files._idle)


def test_files_that_are_asked_for_together_are_answered_together(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path
) -> None:
    """Which is what makes asking ahead worth its while: the transfer process waits for S3 meanwhile."""
    everybody = threading.Barrier(4)
    hand_over(transfer, tmp_path / "file")
    answer = transfer.answer
    transfer.answer = lambda request: (everybody.wait(10), answer(request))[1]
    asked = [files.ask(UUID, len(CONTENT)) for _ in range(4)]
    for one in asked:
        assert one
        file = one.open()
        assert file
        assert file.read() == CONTENT
    assert connections(files) == (4, 4)


def test_what_was_asked_for_and_is_not_wanted_any_more_spoils_no_connection(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path
) -> None:
    """Its answer may come later, and must not be taken for that to the next request."""
    hand_over(transfer, tmp_path / "file", b"not wanted")
    answer, wanted = transfer.answer, threading.Event()
    transfer.answer = lambda request: (wanted.wait(10), answer(request))[1]
    before, early = files.ask(UUID, 10), files.ask(UUID, 10)
    assert before
    assert early
    early.close()
    wanted.set()
    transfer.answer = answer
    wait_until(lambda: select.select([before._connection], [], [], 0)[0], 10, "its answer has come")
    before.close()
    assert connections(files) == (0, 0)
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "the descriptor has gone with the connection")
    hand_over(transfer, tmp_path / "other")
    opened = opened_of(files, UUID, len(CONTENT))
    assert opened
    assert opened.read() == CONTENT


def test_who_asks_for_more_than_there_are_connections_is_left_to_orthanc(
    files: AttachmentFiles, transfer: Transfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(attachments, "_MAXIMUM_CONNECTIONS", 2)
    hand_over(transfer, tmp_path / "file")
    first, second = files.ask(UUID, len(CONTENT)), files.ask(UUID, len(CONTENT))
    assert first
    assert second
    assert files.ask(UUID, len(CONTENT)) is None
    first.close()
    third = files.ask(UUID, len(CONTENT))
    assert third
    for asked in (second, third):
        file = asked.open()
        assert file
        file.close()
    assert connections(files) == (2, 2)


def test_files_that_were_asked_for_together_time_out_together(
    files: AttachmentFiles, transfer: Transfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A transfer process that hangs costs the time-out once, not once for each file."""
    monkeypatch.setattr(attachments, "_TIMEOUT", 0.3)
    hand_over(transfer, tmp_path / "file")
    answer, hangs = transfer.answer, threading.Event()
    transfer.answer = lambda request: (hangs.wait(10), answer(request))[1]
    began = time.monotonic()
    asked = [files.ask(UUID, len(CONTENT)) for _ in range(8)]
    assert [one.open() for one in asked if one] == [None] * 8
    assert 0.3 <= time.monotonic() - began < 2
    assert connections(files) == (0, 0)
    hangs.set()
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "the descriptors have gone with the connections")


def test_what_has_come_in_time_is_taken_however_late(
    files: AttachmentFiles, transfer: Transfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The destination may be slow: that is no reason to do without what is there."""
    monkeypatch.setattr(attachments, "_TIMEOUT", 0.1)
    hand_over(transfer, tmp_path / "file")
    asked = files.ask(UUID, len(CONTENT))
    assert asked
    time.sleep(0.3)
    file = asked.open()
    assert file
    assert file.read() == CONTENT


def test_a_connection_that_is_closed_in_the_middle_concerns_its_own_file_only(
    files: AttachmentFiles, transfer: Transfer, tmp_path: Path
) -> None:
    hand_over(transfer, tmp_path / "file")
    answer = transfer.answer
    transfer.answer = lambda request: answer(request) if request["Name"] == UUID + ".dcm" else None
    asked = [files.ask(uuid, len(CONTENT)) for uuid in (UUID, UUID[:-1] + "6", UUID)]
    opened = [one.open() for one in asked if one]
    assert [file and file.read() for file in opened] == [CONTENT, None, CONTENT]
    assert connections(files) == (2, 2)


@pytest.mark.parametrize("reply", [b"no JSON", b"[]", b"x" * 5000], ids=["text", "list", "too long"])
def test_a_descriptor_that_comes_with_nonsense_is_verified(tmp_path: Path, reply: bytes) -> None:
    path, listener = tmp_path / "file", messages.listen(tmp_path / "transfer.sock")
    path.write_bytes(CONTENT)
    write_digest(path, sha256(CONTENT).digest())
    asked = AttachmentFiles(tmp_path, StorageStructure.FLAT).ask(UUID, len(CONTENT))
    assert asked
    with listener, listener.accept()[0] as connection, path.open("rb") as file:
        socket.send_fds(connection, [reply], [file.fileno()])
        opened = asked.open()
    assert opened
    assert opened.read() == CONTENT
    assert not is_open(path)


def test_announcements_name_what_follows(files: AttachmentFiles, transfer: Transfer) -> None:
    files.announce([(UUID, 5)])

    def announced() -> list[dict[str, Any]]:
        return transfer.requests

    wait_until(announced, 10, "it has arrived")
    assert transfer.requests == [{"Operation": "announce", "Attachments": [[UUID + ".dcm", 5]]}]
