"""Files asked for one by one: a thread of the test plays the transfer process, over the real socket."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from backend import messages
from backend.atomic_file import write_digest
from backend.stack.processes import wait_until
from config.settings import StorageStructure
from scp import attachments
from scp import deliveries as deliveries_module
from scp.attachments import AttachmentFiles
from tests.fakes.transfer_thread import Transfer
from tests.unit.scp.transfer_files import CONTENT, OTHER, UUID, hand_over, is_open


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_sent_is_what_the_transfer_process_expects(files: AttachmentFiles, transfer: Transfer) -> None:
    files.open(UUID, 5)
    with closing(files.deliveries()) as deliveries:
        deliveries.announce([(UUID, 5), (OTHER, 6)])
        assert deliveries.take(UUID, 5) is None
    assert transfer.requests == [
        {"Operation": "fetch", "Name": UUID + ".dcm", "For": "send"},
        {"Operation": "deliver", "Attachments": [[UUID + ".dcm", 5], [OTHER + ".dcm", 6]]},
    ]


def test_without_a_transfer_process_orthanc_is_asked(tmp_path: Path) -> None:
    files = AttachmentFiles(tmp_path, StorageStructure.FLAT)
    for _ in range(attachments._MAXIMUM_CONNECTIONS + 1):
        assert files.open(UUID, 1) is None
    with closing(files.deliveries()) as deliveries:
        deliveries.announce([(UUID, 1)])
        assert not deliveries.expects(UUID)
        assert deliveries.take(UUID, 1) is None


def connections(files: AttachmentFiles) -> tuple[int, int]:
    """All of them, and those that wait for the next request."""
    return files._count, len(files._idle)


def test_an_error_is_left_to_orthanc_and_the_connection_kept(files: AttachmentFiles, transfer: Transfer) -> None:
    transfer.answer = lambda _: ({"Result": "error", "Error": "missing", "Message": "no"}, [])
    assert files.open(UUID, 1) is None
    before = open_files()
    assert files.open(UUID, 1) is None
    assert open_files() == before


def test_a_connection_that_was_lost_is_replaced(files: AttachmentFiles, transfer: Transfer, tmp_path: Path) -> None:
    transfer.answer = lambda _: None
    assert files.open(UUID, 1) is None
    assert connections(files) == (0, 0)
    hand_over(transfer, tmp_path / "file")
    opened = files.open(UUID, len(CONTENT))
    assert opened
    opened.close()


def test_several_are_asked_for_at_the_same_time(files: AttachmentFiles, transfer: Transfer, tmp_path: Path) -> None:
    everybody = threading.Barrier(4)
    hand_over(transfer, tmp_path / "file")
    answer = transfer.answer
    transfer.answer = lambda request: (everybody.wait(10), answer(request))[1]
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(files.open, [UUID] * 4, [len(CONTENT)] * 4))
    assert [file and file.read() for file in opened] == [CONTENT] * 4
    assert connections(files) == (4, 4)


def test_who_asks_for_more_than_there_are_connections_is_left_to_orthanc(
    files: AttachmentFiles, transfer: Transfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(attachments, "_MAXIMUM_CONNECTIONS", 1)
    hand_over(transfer, tmp_path / "file")
    answer, asked, go = transfer.answer, threading.Event(), threading.Event()
    transfer.answer = lambda request: (asked.set(), go.wait(10), answer(request))[2]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(files.open, UUID, len(CONTENT))
        assert asked.wait(10)
        assert files.open(UUID, len(CONTENT)) is None
        go.set()
        opened = first.result(10)
    assert opened
    opened.close()
    assert connections(files) == (1, 1)


def test_a_transfer_process_that_hangs_is_given_up(
    files: AttachmentFiles, transfer: Transfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its answer may come later, and must not be taken for that to the next request."""
    monkeypatch.setattr(deliveries_module, "TIMEOUT", 0.2)
    hand_over(transfer, tmp_path / "file", b"not wanted")
    answer, hangs = transfer.answer, threading.Event()
    transfer.answer = lambda request: (hangs.wait(10), answer(request))[1]
    assert files.open(UUID, 10) is None
    assert connections(files) == (0, 0)
    hangs.set()
    wait_until(lambda: not is_open(tmp_path / "file"), 10, "the descriptor has gone with the connection")
    hand_over(transfer, tmp_path / "other")
    opened = files.open(UUID, len(CONTENT))
    assert opened
    assert opened.read() == CONTENT


@pytest.mark.parametrize("reply", [b"no JSON", b"[]", b"x" * 5000], ids=["text", "list", "too long"])
def test_a_descriptor_that_comes_with_nonsense_is_verified(tmp_path: Path, reply: bytes) -> None:
    path, listener = tmp_path / "file", messages.listen(tmp_path / "transfer.sock")
    path.write_bytes(CONTENT)
    write_digest(path, sha256(CONTENT).digest())
    with listener, path.open("rb") as file, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(AttachmentFiles(tmp_path, StorageStructure.FLAT).open, UUID, len(CONTENT))
        with listener.accept()[0] as connection:
            messages.receive(connection)
            socket.send_fds(connection, [reply], [file.fileno()])
            opened = opening.result(10)
    assert opened
    assert opened.read() == CONTENT
    assert not is_open(path)
