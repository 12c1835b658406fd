"""Messages in fragments, as PS3.8 Annex E lets peers cut them."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from config.settings import DicomSettings
from scp.upper_layer.command_set import decode_command_set, encode_command_set
from scp.upper_layer.errors import AssociationEnded, ProtocolViolation
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import AbortedByPeer, MessageReader, ReleaseRequested, send_message
from scp.upper_layer.pdu_stream import RELEASE_RQ_PDU, PduStream, abort_pdu
from scp.upper_layer.transport import Transport
from tests.fakes.raw_peer import p_data, pdv

LIMITS = replace(Limits.of(DicomSettings()), pdu_timeout=0.2, idle_timeout=0.2)
FIELDS = {"CommandField": 1, "MessageID": 5, "AffectedSOPClassUID": "1.2.3", "CommandDataSetType": 1}
COMMAND = encode_command_set(FIELDS)

Pair = tuple[PduStream, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our stream and the peer's socket, over TCP."""
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    yield PduStream(Transport(ours), pdu_timeout=0.2), peer
    for sock in (listener, peer, ours):
        sock.close()


def receive(pair: Pair, sent: bytes) -> tuple[dict[str, object], bytes]:
    stream, peer = pair
    peer.sendall(sent)
    reader = MessageReader(stream, LIMITS)
    command = reader.read_command(1)
    data = io.BytesIO()
    if command.has_data_set:
        reader.read_data_set(command, data)
    assert reader.at_boundary
    assert not stream.has_buffered
    return command.fields, data.getvalue()


@pytest.mark.parametrize(
    "sent",
    [
        p_data(pdv(3, 3, COMMAND)) + p_data(pdv(3, 2, b"data set")),
        p_data(pdv(3, 3, COMMAND), pdv(3, 2, b"data set")),
        p_data(pdv(3, 1, COMMAND[:10]), pdv(3, 1, b"")) + p_data(pdv(3, 3, COMMAND[10:]), pdv(3, 0, b"data"))
        + p_data(pdv(3, 0, b" ")) + p_data(pdv(3, 2, b"set")),
        b"".join(p_data(pdv(3, 1, COMMAND[i : i + 1])) for i in range(len(COMMAND))) + p_data(pdv(3, 3, b""))
        + p_data(pdv(3, 0, b"data set")) + p_data(pdv(3, 2, b"")),
        p_data(pdv(3, 0xFF, COMMAND), pdv(3, 0xFE, b"data set")),
    ],
    ids=["two PDUs", "one PDU", "mixed", "byte by byte", "reserved bits set"],
)  # fmt: skip
def test_fragments_make_one_message(pair: Pair, sent: bytes) -> None:
    fields, data = receive(pair, sent)
    assert fields.items() >= FIELDS.items()
    assert data == b"data set"


def test_a_data_set_larger_than_the_receive_buffer(pair: Pair) -> None:
    content = bytes(range(256)) * 4000
    sent = p_data(pdv(1, 3, COMMAND)) + b"".join(
        p_data(pdv(1, 0, content[i : i + 100_000])) for i in range(0, len(content), 100_000)
    )
    writer = threading.Thread(target=pair[1].sendall, args=(sent + p_data(pdv(1, 2, b"")),))
    writer.start()
    assert receive(pair, b"")[1] == content
    writer.join()


def test_release_and_abort_instead_of_a_message(pair: Pair) -> None:
    stream, peer = pair
    reader = MessageReader(stream, LIMITS)
    peer.sendall(RELEASE_RQ_PDU + abort_pdu(0, 0))
    with pytest.raises(ReleaseRequested):
        reader.read_command(1)
    with pytest.raises(AbortedByPeer):
        reader.read_command(1)


def test_release_in_the_middle_of_a_message_is_a_violation(pair: Pair) -> None:
    with pytest.raises(ProtocolViolation, match="pdu_type"):
        receive(pair, p_data(pdv(1, 3, COMMAND)) + RELEASE_RQ_PDU)


def test_silence_ends_in_time(pair: Pair) -> None:
    with pytest.raises(AssociationEnded, match="timeout"):
        receive(pair, p_data(pdv(1, 3, COMMAND)) + p_data(pdv(1, 0, b"half")))


@pytest.mark.parametrize("start", [pdv(1, 3, bytes(200)), pdv(1, 3, COMMAND) + pdv(1, 2, bytes(200))])
def test_a_value_that_comes_byte_by_byte_is_too_slow(pair: Pair, start: bytes) -> None:
    """MinimumReceiveRate counts inside of a PDU too: one of 128 KB could keep a thread for two weeks."""
    stream, peer = pair
    limits = replace(LIMITS, slow_message_grace=0.2, minimum_receive_rate=10_000)
    ended = threading.Event()

    def crawl() -> None:
        peer.sendall(p_data(start)[:-200])
        while not ended.wait(0.02):
            peer.sendall(b"\0")

    sender = threading.Thread(target=crawl)
    sender.start()
    reader = MessageReader(stream, limits)
    try:
        with pytest.raises(ProtocolViolation, match="too_slow"):
            reader.read_data_set(reader.read_command(1), io.BytesIO())
        assert stream.received < 150 + len(COMMAND)
    finally:
        ended.set()
        sender.join()


def test_the_end_of_the_connection(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(AssociationEnded, match="closed_by_peer"):
        MessageReader(pair[0], LIMITS).read_command(1)


@pytest.mark.parametrize("maximum", [16, 100, 16384, 0], ids=["smallest", "small", "usual", "no limit"])
@pytest.mark.parametrize("size", [0, 9, 10, 11, 94, 95, 30_000])
def test_what_we_send_respects_the_maximum_and_is_read_back(pair: Pair, maximum: int, size: int) -> None:
    stream, peer = pair
    content = bytes(range(256)) * (size // 256 + 1)
    received: list[bytes] = []

    def read() -> None:
        while chunk := peer.recv(1 << 20):
            received.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    data = io.BytesIO(content[:size])
    send_message(stream, 5, {"CommandField": 1, "Status": 0}, data, peer_maximum_length=maximum, timeout=5)
    stream.transport.end_output()
    reader.join()
    stream_bytes, command, data_set = b"".join(received), b"", b""
    while stream_bytes:
        _, length = struct.unpack_from(">BxL", stream_bytes)
        assert not maximum or length <= maximum
        value_length, context_id, control = struct.unpack_from(">LBB", stream_bytes, 6)
        assert (value_length, context_id) == (length - 4, 5)
        value, stream_bytes = stream_bytes[12 : 6 + length], stream_bytes[6 + length :]
        command, data_set = (command + value, data_set) if control & 1 else (command, data_set + value)
    assert control & 2
    assert data_set == content[:size]
    assert decode_command_set(command)["CommandDataSetType"] == (1 if size else 0x0101)


@pytest.mark.parametrize("maximum", [4096, 16384, 0])
@pytest.mark.parametrize("is_file", [False, True])
def test_a_large_data_set_arrives_whole_and_its_source_is_free_again(
    pair: Pair, tmp_path: Path, maximum: int, *, is_file: bool
) -> None:
    """From its position; memory is not copied on the way, nor held afterwards."""
    content = os.urandom(2_500_001)
    (tmp_path / "data set").write_bytes(content)
    source: BinaryIO = (tmp_path / "data set").open("rb") if is_file else io.BytesIO(content)
    source.seek(1)
    stream, peer = pair
    received = io.BytesIO()

    def read() -> None:
        reader = MessageReader(PduStream(Transport(peer), pdu_timeout=5), replace(LIMITS, idle_timeout=5))
        reader.read_data_set(reader.read_command(5), received)

    thread = threading.Thread(target=read)
    thread.start()
    send_message(stream, 5, {"CommandField": 1, "Status": 0}, source, peer_maximum_length=maximum, timeout=5)
    source.close()
    thread.join()
    assert received.getvalue() == content[1:]


@pytest.mark.parametrize("is_file", [False, True])
def test_a_source_can_be_closed_though_the_error_of_sending_it_is_kept(
    pair: Pair, tmp_path: Path, *, is_file: bool
) -> None:
    (tmp_path / "data set").write_bytes(bytes(10_000_000))
    source: BinaryIO = (tmp_path / "data set").open("rb") if is_file else io.BytesIO(bytes(10_000_000))
    with pytest.raises(AssociationEnded, match="stopped reading") as ended:
        send_message(pair[0], 5, {"CommandField": 1}, source, peer_maximum_length=0, timeout=0.1)
    source.close()
    assert ended.value.__traceback__
