"""Files of a retrieve request, handed over as they come over one connection."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from backend import messages
from backend.atomic_file import write_digest
from backend.transfer.server import MAXIMUM_ANNOUNCED
from config.settings import StorageStructure
from scp import attachments
from scp import deliveries as deliveries_module
from scp.attachments import AttachmentFiles
from scp.deliveries import Deliveries
from tests.fakes.transfer_thread import Transfer
from tests.unit.scp.transfer_files import CONTENT, UUID, hand_over, open_below


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
