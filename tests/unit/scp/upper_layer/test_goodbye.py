"""The end of an association in the event loop, which may wait for no peer: all others would wait with it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from config.settings import DicomSettings
from scp.parking import Goodbye
from scp.request import Peer
from scp.upper_layer.association import Association, Outcome
from scp.upper_layer.limits import Limits
from scp.upper_layer.pdu_stream import PduStream
from scp.upper_layer.transport import Transport

Pair = tuple[Transport, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our transport and the peer's socket, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, peer:
        yield Transport(ours), peer


def test_a_peer_that_goes_on_sending_takes_turns_with_the_others(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was answered its last PDU and sends faster than we read."""
    reads = []

    def receive_into(self: Transport, view: memoryview) -> int:
        reads.append(self)
        assert len(reads) < 1000, "it never comes back"
        return len(view)

    monkeypatch.setattr(Transport, "receive_into", receive_into)
    assert not Goodbye(pair[0], time.monotonic() + 2).has_ended()


def test_what_is_still_sent_is_dropped_until_the_peer_closes(pair: Pair) -> None:
    transport, peer = pair
    goodbye = Goodbye(transport, time.monotonic() + 2)
    peer.sendall(bytes(200_000))
    assert not goodbye.has_ended()
    peer.close()
    turns = 0
    while not goodbye.has_ended():
        assert transport.wait_readable(1)
        turns += 1
    assert turns > 0


def test_an_idle_peer_that_has_not_read_its_answers_is_aborted_without_waiting(pair: Pair) -> None:
    """Its receive window and our send buffer are full: there is no room for the A-ABORT."""
    transport, _ = pair
    with contextlib.suppress(BlockingIOError):
        while True:
            transport.socket.send(bytes(65536))
    peer = Peer("CT1", "ISEN", "127.0.0.1", None)
    association = Association(
        PduStream(transport, pdu_timeout=1),
        peer,
        {},
        extended={},
        peer_maximum_length=0,
        limits=Limits.of(DicomSettings()),
        dispatch=lambda _association, _command: None,
    )
    start = time.monotonic()
    assert association.abort("idle_timeout") is Outcome.CLOSED
    assert time.monotonic() - start < 0.2
