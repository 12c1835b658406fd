"""Files handed over by the transfer process: a thread of the test plays it, over the real socket."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pytest

from backend import messages
from backend.atomic_file import write_digest
from backend.stack.processes import wait_until
from backend.transfer.server import MAXIMUM_ANNOUNCED
from config.settings import StorageStructure
from scp import attachments, handed_over
from scp import deliveries as deliveries_module
from scp.attachments import AttachmentFiles
from scp.deliveries import Deliveries
from tests.fakes.transfer_thread import Transfer

UUID = "11111111-2222-3333-4444-555555555555"
OTHER = "11111111-2222-3333-4444-666666666666"
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
    transfer: Transfer, path: Path, content: bytes = CONTENT, digest_of: bytes | None = None, *, verified: float = 0
) -> None:
    """`verified`: so many seconds ago."""
    path.write_bytes(content)
    write_digest(path, sha256(content if digest_of is None else digest_of).digest())
    verified_at = time.monotonic() - verified if verified else 0
    transfer.answer = lambda _: ({"Result": "ok", "VerifiedAt": verified_at}, [os.open(path, os.O_RDONLY)])


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


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def open_below(folder: Path) -> list[str]:
    """Files of this folder that this process has open."""
    with os.scandir("/proc/self/fd") as descriptors:
        found = [os.path.realpath(entry) for entry in descriptors if os.path.lexists(entry)]
    return [path for path in found if path.startswith(f"{folder}/")]


def is_open(path: Path) -> bool:
    """Whether this process has the file open; the thread that plays the transfer process is in it, too."""
    with os.scandir("/proc/self/fd") as descriptors:
        return any(os.path.lexists(entry) and os.path.realpath(entry) == str(path) for entry in descriptors)


def test_the_file_is_read_from_the_descriptor(opened_of: Opened, transfer: Transfer, tmp_path: Path) -> None:
    hand_over(transfer, tmp_path / "file")
    for _ in range(3):
        opened = opened_of(UUID, len(CONTENT))
        assert opened
        with opened:
            assert opened.read() == CONTENT


def test_what_is_sent_is_what_the_transfer_process_expects(files: AttachmentFiles, transfer: Transfer) -> None:
    files.open(UUID, 5)
    with closing(files.deliveries()) as deliveries:
        deliveries.announce([(UUID, 5), (OTHER, 6)])
        assert deliveries.take(UUID, 5) is None
    assert transfer.requests == [
        {"Operation": "fetch", "Name": UUID + ".dcm", "For": "send"},
        {"Operation": "deliver", "Attachments": [[UUID + ".dcm", 5], [OTHER + ".dcm", 6]]},
    ]


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


def test_without_a_transfer_process_orthanc_is_asked(tmp_path: Path) -> None:
    files = AttachmentFiles(tmp_path, StorageStructure.FLAT)
    for _ in range(attachments._MAXIMUM_CONNECTIONS + 1):
        assert files.open(UUID, 1) is None
    with closing(files.deliveries()) as deliveries:
        deliveries.announce([(UUID, 1)])
        assert not deliveries.expects(UUID)
        assert deliveries.take(UUID, 1) is None


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


# --- asked for one by one


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


# --- delivered


@dataclass
class Peer:
    """The transfer process's end of one connection, by hand."""

    connection: socket.socket
    folder: Path

    def announced(self) -> list[str]:
        return [name.removesuffix(".dcm") for name, _ in messages.receive(self.connection)[0]["Attachments"]]

    def send(self, *uuids: str, missing: Sequence[str] = ()) -> None:
        """Hand over these, each with its UUID as its content."""
        paths = [self.folder / uuid for uuid in uuids]
        for path in paths:
            path.write_bytes(path.name.encode())
            write_digest(path, sha256(path.name.encode()).digest())
        descriptors = [os.open(path, os.O_RDONLY) for path in paths]
        files = [(f"{uuid}.dcm", 0) for uuid in uuids]
        message = {"Files": files, "Missing": [f"{uuid}.dcm" for uuid in missing]}
        socket.send_fds(self.connection, [json.dumps(message).encode()], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


UUIDS = [f"11111111-2222-3333-4444-{number:012x}" for number in range(8)]


@pytest.fixture
def deliveries(tmp_path: Path) -> Iterator[Deliveries]:
    deliveries = AttachmentFiles(tmp_path, StorageStructure.FLAT).deliveries()
    yield deliveries
    deliveries.close()


@pytest.fixture
def peer(tmp_path: Path, deliveries: Deliveries) -> Iterator[Peer]:
    """Eight files have been announced."""
    with messages.listen(tmp_path / "transfer.sock") as listener:
        deliveries.announce([(uuid, len(UUID)) for uuid in UUIDS])
        connection, _ = listener.accept()
    with connection:
        peer = Peer(connection, tmp_path)
        assert peer.announced() == UUIDS
        yield peer


def taken(deliveries: Deliveries, uuid: str) -> str | None:
    assert deliveries.expects(uuid)
    file = deliveries.take(uuid, len(UUID))
    if file is None:
        return None
    with file:
        return file.read().decode()


def test_each_is_what_was_announced_whatever_the_order_and_however_many_at_a_time(
    deliveries: Deliveries, peer: Peer
) -> None:
    peer.send(UUIDS[7], UUIDS[0], missing=[UUIDS[1]])
    peer.send(UUIDS[3])
    peer.send(*UUIDS[4:7], UUIDS[2])
    expected = [uuid if uuid != UUIDS[1] else None for uuid in UUIDS]
    read = [taken(deliveries, uuid) if deliveries.expects(uuid) else None for uuid in UUIDS]
    assert read == expected
    assert not any(deliveries.expects(uuid) for uuid in UUIDS)
    assert open_below(peer.folder) == []


def test_what_is_announced_later_comes_over_the_same_connection(deliveries: Deliveries, peer: Peer) -> None:
    deliveries.announce([(UUID, len(UUID))])
    assert peer.announced() == [UUID]
    peer.send(UUID)
    assert taken(deliveries, UUID) == UUID
    assert deliveries.expects(UUIDS[0])


def test_all_that_one_announcement_has_may_come_together(deliveries: Deliveries, peer: Peer) -> None:
    uuids = [f"22222222-2222-3333-4444-{number:012x}" for number in range(MAXIMUM_ANNOUNCED)]
    deliveries.announce([(uuid, len(UUID)) for uuid in uuids])
    assert peer.announced() == uuids
    peer.send(*uuids)
    assert [taken(deliveries, uuid) for uuid in uuids] == uuids


def test_the_transfer_process_learns_that_nothing_more_is_wanted(deliveries: Deliveries, peer: Peer) -> None:
    deliveries.close()
    peer.connection.settimeout(10)
    with pytest.raises(messages.Disconnected):
        peer.announced()


def test_a_file_is_waited_for(deliveries: Deliveries, peer: Peer) -> None:
    threading.Timer(0.1, peer.send, [UUIDS[5]]).start()
    threading.Timer(0.2, peer.send, [UUIDS[0]]).start()
    assert taken(deliveries, UUIDS[0]) == UUIDS[0]


def test_what_was_not_announced_is_not_expected(deliveries: Deliveries, peer: Peer) -> None:
    assert not deliveries.expects(UUID)
    peer.send(UUID, UUIDS[0])
    assert taken(deliveries, UUIDS[0]) == UUIDS[0]
    assert not deliveries.expects(UUID)
    assert open_below(peer.folder) == []


def test_nothing_stays_open_of_what_is_not_taken(deliveries: Deliveries, peer: Peer) -> None:
    """Forgotten before it came, forgotten afterwards, come and left, come and not even looked at."""
    deliveries.forget(UUIDS[0])
    peer.send(*UUIDS[:4])
    assert taken(deliveries, UUIDS[1]) == UUIDS[1]
    assert len(open_below(peer.folder)) == 2
    deliveries.forget(UUIDS[2])
    assert not deliveries.expects(UUIDS[2])
    assert len(open_below(peer.folder)) == 1
    peer.send(*UUIDS[4:])
    deliveries.close()
    assert open_below(peer.folder) == []


def test_once_the_connection_is_lost_nothing_is_expected_but_what_has_come(deliveries: Deliveries, peer: Peer) -> None:
    peer.send(UUIDS[1])
    peer.send(UUIDS[0])
    assert taken(deliveries, UUIDS[0]) == UUIDS[0]
    peer.connection.close()
    assert taken(deliveries, UUIDS[2]) is None
    assert [uuid for uuid in UUIDS if deliveries.expects(uuid)] == [UUIDS[1]]
    assert taken(deliveries, UUIDS[1]) == UUIDS[1]
    deliveries.announce([(UUID, len(UUID))])
    assert not deliveries.expects(UUID)


def test_what_is_announced_after_a_restart_comes_again(deliveries: Deliveries, tmp_path: Path) -> None:
    with messages.listen(tmp_path / "transfer.sock") as listener:
        listener.settimeout(10)
        for first in (0, 2, 4):
            uuids = UUIDS[first : first + 2]
            deliveries.announce([(uuid, len(UUID)) for uuid in uuids])
            with listener.accept()[0] as connection:
                peer = Peer(connection, tmp_path)
                assert peer.announced() == uuids
                peer.send(uuids[0])
            assert taken(deliveries, uuids[0]) == uuids[0]
            assert not deliveries.expects(uuids[1])
    assert open_below(tmp_path) == []


def test_who_finds_all_places_taken_asks_one_by_one(
    transfer: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retrieve request may take hours, and the transfer process serves Orthanc as well."""
    monkeypatch.setattr(attachments, "_MAXIMUM_DELIVERIES", 1)
    hand_over(transfer, tmp_path / "file")
    files = AttachmentFiles(tmp_path, StorageStructure.FLAT)
    with closing(files.deliveries()) as second:
        with closing(files.deliveries()) as first:
            for deliveries in (first, second, second):
                deliveries.announce([(UUID, len(CONTENT))])
            assert (first.expects(UUID), second.expects(UUID)) == (True, False)
            assert second.take(UUID, len(CONTENT)) is None
        second.announce([(UUID, len(CONTENT))])
        opened = second.take(UUID, len(CONTENT))
        assert opened
        opened.close()
    with closing(files.deliveries()) as third:
        third.announce([(UUID, len(CONTENT))])
        assert third.expects(UUID)


def test_a_connection_that_takes_no_announcement_is_lost(deliveries: Deliveries, peer: Peer) -> None:
    peer.connection.close()
    deliveries.announce([(UUID, len(UUID))])
    assert not any(deliveries.expects(uuid) for uuid in (UUID, *UUIDS))
    assert deliveries.take(UUIDS[0], len(UUID)) is None


def test_who_says_nothing_is_waited_for_once(
    deliveries: Deliveries, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have others to serve first; what is asked for by itself does not wait behind what they announced."""
    monkeypatch.setattr(deliveries_module, "_PATIENCE", 0.3)
    began = time.monotonic()
    assert [taken(deliveries, uuid) for uuid in UUIDS[:7]] == [None] * 7
    assert time.monotonic() - began < 1
    peer.send(*UUIDS)
    assert taken(deliveries, UUIDS[7]) == UUIDS[7]
    assert open_below(peer.folder) == []
    time.sleep(0.3)
    deliveries.announce([(UUID, len(UUID))])
    threading.Timer(0.1, peer.send, [UUID]).start()
    assert taken(deliveries, UUID) == UUID, "it is not late yet"


def test_while_others_come_it_may_take_longer(
    deliveries: Deliveries, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries_module, "_PATIENCE", 0.6)
    for number in range(4):
        threading.Timer(0.3 * number, peer.send, [UUIDS[3 - number]]).start()
    assert taken(deliveries, UUIDS[0]) == UUIDS[0]


def test_nothing_waits_in_the_socket_for_who_takes_nothing(deliveries: Deliveries, peer: Peer) -> None:
    """All of a large study has to be converted: a transfer process that cannot say more closes the connection."""
    peer.connection.settimeout(1)
    for _ in range(500):
        peer.send(UUIDS[0], UUIDS[1])
        deliveries.forget(UUIDS[0])
    assert len(open_below(peer.folder)) == 1
    assert deliveries.expects(UUIDS[1])


@pytest.mark.parametrize(
    "nonsense",
    [b"no JSON", b"[]", b"{}", b'{"Files":[["a"]],"Missing":[]}', b'{"Files":[],"Missing":[]}', b"x" * 65_000],
    ids=["text", "list", "nothing", "no time", "one descriptor too many", "too long"],
)
def test_a_message_that_is_none_ends_it(deliveries: Deliveries, peer: Peer, nonsense: bytes) -> None:
    path = peer.folder / "file"
    path.write_bytes(b"")
    with path.open() as file:
        socket.send_fds(peer.connection, [nonsense], [file.fileno()])
    assert taken(deliveries, UUIDS[0]) is None
    assert open_below(peer.folder) == []
    assert not deliveries.expects(UUIDS[1])
