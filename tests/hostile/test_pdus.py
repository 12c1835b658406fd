"""Bytes that are no proper PDUs: A-ABORT or a closed connection, at once, whatever they say about their length."""

from __future__ import annotations

import random
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scp.upper_layer.associate import ContextProposal, decode_associate_request
from scp.upper_layer.associate_requestor import encode_associate_request
from scp.upper_layer.command_set import decode_command_set, encode_command_set
from scp.upper_layer.errors import ProtocolViolation
from tests.fakes.raw_peer import CONTEXTS, CT, ID, VERIFICATION, RawPeer, p_data, pdv
from tests.fakes.scp_workers import Workers

REQUEST = encode_associate_request("PEER", "ISEN", CONTEXTS, 65536)
ECHO = {"CommandField": 0x30, "MessageID": 1, "AffectedSOPClassUID": VERIFICATION, "CommandDataSetType": 0x0101}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(1000),
        struct.pack(">BxL", 1, 0xFFFFFFFF) + bytes(1000),
        struct.pack(">BxL", 4, 0xFFFFFFFF),
        struct.pack(">BxL", 1, 10) + bytes(10),
        struct.pack(">BxL", 1, 0),
        REQUEST.replace(b"\x10\x00\x00", b"\x10\x00\xff", 1),
    ],
    ids=["http", "tls", "zeros", "huge", "p-data first", "short", "empty", "item length"],
)
def test_first_bytes(group: Workers, sent: bytes) -> None:
    """Seen at once, not when AssociateTimeout (1 s here) is over."""
    with RawPeer(group.port) as peer:
        start = time.monotonic()
        peer.send(sent)
        assert peer.receive()[0] in (0, 7)
        assert peer.is_closed_within(3)
        assert time.monotonic() - start < 0.7


@pytest.mark.parametrize("maximum", [1, 16, 127])
def test_a_maximum_length_that_costs_a_pdu_for_a_few_bytes_is_rejected(group: Workers, maximum: int) -> None:
    with RawPeer(group.port) as peer:
        peer.send(encode_associate_request("PEER", "ISEN", CONTEXTS, maximum))
        kind, body = peer.receive()
        assert (kind, tuple(body[1:])) == (3, (1, 1, 1))


@pytest.mark.parametrize("maximum", [0, 128, 1024])
def test_a_small_maximum_length_is_kept_to(group: Workers, maximum: int) -> None:
    with RawPeer(group.port) as peer:
        peer.send(encode_associate_request("PEER", "ISEN", CONTEXTS, maximum))
        assert peer.receive()[0] == 2
        peer.request(ID[VERIFICATION], {"CommandField": 0x30, "AffectedSOPClassUID": VERIFICATION})
        kind, body = peer.receive()
        assert kind == 4
        assert 0 < len(body) <= (maximum or 1024)
        peer.release()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (struct.pack(">BxL", 4, 0xFFFFFFFF), 6),
        (struct.pack(">BxL", 4, 131072 + 7), 6),
        (struct.pack(">BxL", 4, 3) + bytes(3), 6),
        (struct.pack(">BxLLBB", 4, 6, 0xFFFFFFFF, 1, 3), 6),
        (struct.pack(">BxLLBB", 4, 6, 1, 1, 3), 6),
        (struct.pack(">BxL", 9, 4) + bytes(4), 1),
        (REQUEST, 2),
        (struct.pack(">BxL", 6, 4) + bytes(4), 2),
        (struct.pack(">BxL", 5, 400) + bytes(400), 6),
        (p_data(pdv(1, 0, b"data set first")), 5),
        (p_data(pdv(1, 1, b"\0" * 8), pdv(3, 3, b"")), 5),
        (p_data(pdv(1, 3, b"\1\2\3")), 6),
        (p_data(pdv(1, 3, encode_command_set({"CommandField": 0x30}))), 0),
        (p_data(pdv(99, 3, encode_command_set(ECHO))), 0),
        (p_data(pdv(1, 3, encode_command_set({**ECHO, "CommandField": 0x8030}))), 0),
        (p_data(*[pdv(1, 1, bytes(60000))] * 2), 0),
    ],
    ids=[
        "pdu 4 GiB", "pdu over the maximum", "pdu of 3", "pdv 4 GiB", "pdv of 1", "unknown type", "second request",
        "unasked release", "long release", "no command", "context changes", "garbage command", "no message ID",
        "unknown context", "unasked response", "long command",
    ],
)  # fmt: skip
def test_on_an_association(group: Workers, sent: bytes, reason: int) -> None:
    """A-ABORT by the provider, with the reason of PS3.8 Table 9-26."""
    with RawPeer(group.port).established() as peer:
        peer.send(sent)
        kind, body = peer.receive()
        assert (kind, body[2], body[3]) == (7, 2, reason)
        assert peer.is_closed_within(3)


def test_too_many_contexts(group: Workers) -> None:
    contexts = [ContextProposal(2 * n % 256 + 1, f"1.2.{n}", ("1.2.840.10008.1.2",)) for n in range(129)]
    with RawPeer(group.port) as peer:
        peer.send(encode_associate_request("PEER", "ISEN", contexts, 0))
        assert peer.receive()[0] == 7


def test_pipelined_requests_are_served_in_order(group: Workers) -> None:
    """A peer may not, without an asynchronous window, but its messages wait in the network, not in our memory."""
    with RawPeer(group.port).established() as peer:
        for _ in range(200):
            peer.request(1, {key: value for key, value in ECHO.items() if key != "MessageID"})
        assert [peer.response()[0]["MessageIDBeingRespondedTo"] for _ in range(200)] == list(range(1, 201))
        peer.release()


@pytest.mark.parametrize("uid", ["../../etc/passwd", "/etc/x", "1.2.3\\..\\x", "$(id)", "%00", "A" * 64])
def test_path_like_uids(group: Workers, uid: str) -> None:
    """An identifier is only an identifier; the service hears it as it is, or not at all, and nothing is opened."""
    with RawPeer(group.port).established(calling="../../../root") as peer:
        assert peer.store(b"1234", uid)["Status"] == 0
        peer.release()


@settings(max_examples=400, deadline=1000, derandomize=True)
@given(st.data())
def test_mutated_requests_are_decoded_or_refused(data: st.DataObject) -> None:
    """Only `ProtocolViolation` leaves the decoder."""
    body = bytearray(REQUEST[6:])
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    try:
        decode_associate_request(bytes(body), 512)
    except ProtocolViolation:
        pass


@settings(max_examples=400, deadline=1000, derandomize=True)
@given(st.binary(max_size=300))
def test_any_command_set_is_decoded_or_refused(encoded: bytes) -> None:
    try:
        decode_command_set(encoded)
    except ProtocolViolation:
        pass


def test_mutated_pdus_over_tcp(group: Workers) -> None:
    """Requests and messages with some bytes changed; more of them with `make soak`."""
    run_mutations(group.port, seed=20260301, count=300)


def run_mutations(port: int, seed: int, count: int) -> None:
    """Send `count` mutated exchanges, each on a connection of its own; the seed makes them repeatable."""
    source = random.Random(seed)
    store = {
        **ECHO,
        "CommandField": 1,
        "AffectedSOPClassUID": CT,
        "AffectedSOPInstanceUID": "1.2",
        "CommandDataSetType": 1,
    }
    messages = p_data(pdv(ID[CT], 3, encode_command_set(store)), pdv(ID[CT], 2, bytes(200))) + p_data(
        pdv(1, 3, encode_command_set(ECHO))
    )
    for number in range(count):
        with RawPeer(port) as peer:
            if number % 2:
                peer.send(mutate(source, REQUEST))
            else:
                peer.established()
                peer.send(mutate(source, messages))
            peer.sock.shutdown(1)  # it has said all it will say
            assert peer.is_closed_within(5)


def mutate(source: random.Random, content: bytes) -> bytes:
    """Change, drop or repeat some bytes."""
    changed = bytearray(content)
    for _ in range(source.randint(1, 6)):
        where = source.randrange(len(changed))
        action = source.randrange(4)
        if action == 0:
            changed[where] = source.randrange(256)
        elif action == 1:
            changed[where] ^= 1 << source.randrange(8)
        elif action == 2:
            del changed[where : where + source.randrange(16)]
        else:
            changed[where:where] = changed[where : where + source.randrange(64)]
        if not changed:
            break
    return bytes(changed)
