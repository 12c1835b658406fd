"""Peers that stop, crawl or vanish: each loses its connection in time, nobody else notices."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from scp.upper_layer.associate_requestor import encode_associate_request
from scp.upper_layer.command_set import encode_command_set
from tests.fakes.raw_peer import CONTEXTS, CT, FIND, ID, RawPeer, p_data, pdv
from tests.fakes.scp_workers import Workers, eventually

REQUEST = encode_associate_request("PEER", "ISEN", CONTEXTS, 65536)
STORE = {
    "CommandField": 1,
    "MessageID": 1,
    "AffectedSOPClassUID": CT,
    "AffectedSOPInstanceUID": "1.2.3",
    "CommandDataSetType": 1,
}


@pytest.mark.parametrize("sent", [b"", b"\x01", REQUEST[:6], REQUEST[:200], REQUEST[:-1]], ids=len)
def test_request_that_never_completes(group: Workers, sent: bytes) -> None:
    """ARTIM: the whole A-ASSOCIATE-RQ has to arrive within AssociateTimeout."""
    with RawPeer(group.port) as peer:
        peer.send(sent)
        assert peer.is_closed_within(3)


def test_request_byte_by_byte(group: Workers) -> None:
    """Each byte is progress, yet the deadline stands."""
    with RawPeer(group.port) as peer:
        start = time.monotonic()
        try:
            for byte in REQUEST:
                peer.send(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - start < 4


@pytest.mark.parametrize("sent", [b"\x04", b"\x04\x00\x00\x00\x10\x00", p_data(pdv(1, 3, bytes(100)))[:50]], ids=len)
def test_half_pdu_on_an_association(group: Workers, sent: bytes) -> None:
    with RawPeer(group.port).established() as peer:
        peer.send(sent)
        kind, body = peer.receive()
        assert (kind, body[2]) == (7, 2)  # A-ABORT by the provider
        assert peer.is_closed_within(3)


def test_data_set_that_never_ends(group: Workers) -> None:
    """The command set is complete, some data came, then nothing: idle time is up."""
    with RawPeer(group.port).established() as peer:
        peer.send(
            p_data(pdv(ID[CT], 3, encode_command_set(STORE))) + p_data(pdv(ID[CT], 0, bytes(3 * 1024 * 1024 // 24)))
        )
        kind, _ = peer.receive()
        assert kind == 7


def test_data_set_that_crawls(group: Workers) -> None:
    """Whole PDUs, but far below MinimumReceiveRate."""
    with RawPeer(group.port).established() as peer:
        peer.send(p_data(pdv(ID[CT], 3, encode_command_set(STORE))))
        start = time.monotonic()
        try:
            while time.monotonic() - start < 10:
                peer.send(p_data(pdv(ID[CT], 0, b"slow")))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - start < 5


def test_idle_association(group: Workers) -> None:
    """DicomScpTimeout: nothing asked for two seconds ends in A-ABORT."""
    with RawPeer(group.port).established() as peer:
        start = time.monotonic()
        kind, _ = peer.receive()
        assert kind == 7
        assert 1.5 < time.monotonic() - start < 4


def test_peer_that_does_not_read(group: Workers) -> None:
    """It asks for many answers and reads none, then disappears."""
    with RawPeer(group.port).established() as peer:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        identifier = struct.pack("<HHL", 0x10, 0x20, 6) + b"100000"
        peer.request(ID[FIND], {"CommandField": 0x20, "AffectedSOPClassUID": FIND, "Priority": 0}, b"")
        peer.request(ID[FIND], {"CommandField": 0x20, "AffectedSOPClassUID": FIND, "Priority": 0}, identifier)
        time.sleep(0.3)


@pytest.mark.parametrize("linger", [True, False], ids=["reset", "close"])
def test_vanishing_in_the_middle_of_a_data_set(group: Workers, linger: bool) -> None:
    for _ in range(20):
        peer = RawPeer(group.port).established()
        if linger:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.send(p_data(pdv(ID[CT], 3, encode_command_set(STORE))))
        for _ in range(20):
            peer.send(p_data(pdv(ID[CT], 0, bytes(100_000))))  # past DataSetMemory: it is in a file by now
        peer.sock.close()


def test_goodbye_that_is_never_answered(group: Workers) -> None:
    """After A-RELEASE-RP the peer should close; one that stays is closed."""
    with RawPeer(group.port).established() as peer:
        peer.send(bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        assert peer.receive()[0] == 6
        assert peer.is_closed_within(5)


def test_many_stalled_connections(group: Workers) -> None:
    """More than MaximumConnections: the oldest make way, an honest peer is served at once."""
    peers = [RawPeer(group.port) for _ in range(300)]
    for peer in peers:
        peer.send(b"\x01\x00\x00")
    start = time.monotonic()
    for _ in range(20):
        with RawPeer(group.port).established() as honest:
            assert honest.echo() == 0
            honest.release()
    assert time.monotonic() - start < 2
    assert all(peer.is_closed_within(max(0.1, 5 + start - time.monotonic())) for peer in peers)
    eventually(lambda: group.associations() == 0)


def test_flood_of_connections(group: Workers) -> None:
    """Connections opened and closed as fast as four threads can."""
    stop = time.monotonic() + 2

    def flood() -> None:
        while time.monotonic() < stop:
            try:
                RawPeer(group.port).sock.close()
            except OSError:
                pass

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    with RawPeer(group.port).established() as honest:
        assert honest.echo() == 0
        honest.release()
    for thread in threads:
        thread.join()
