"""Data sets made to exhaust a decoder: refused with a status, and the association lives on."""

from __future__ import annotations

import struct
import zlib

import pytest

from scp.upper_layer.associate import ContextProposal
from tests.fakes.raw_peer import CT, FIND, ID, IMPLICIT, MPPS, RawPeer
from tests.fakes.scp_workers import Workers

QUERY = {"CommandField": 0x20, "AffectedSOPClassUID": FIND, "Priority": 0}
DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = b"\xff\xff\xff\xff"


def nested(levels: int, *, explicit: bool) -> bytes:
    """Sequences of undefined length inside each other."""
    head = struct.pack("<HH", 0x0008, 0x1140) + (b"SQ\0\0" if explicit else b"") + UNDEFINED
    return (
        head + b"\xfe\xff\x00\xe0" + UNDEFINED
    ) * levels + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * levels


def ask(peer: RawPeer, context_id: int, identifier: bytes) -> int:
    peer.request(context_id, QUERY, identifier)
    return int(peer.response()[0]["Status"])


@pytest.mark.parametrize("levels", [70, 300, 20000])
def test_deep_nesting(group: Workers, levels: int) -> None:
    with RawPeer(group.port).established() as peer:
        assert ask(peer, ID[FIND], nested(levels, explicit=True)) == 0xC000
        assert peer.echo() == 0
        peer.release()


def test_deep_nesting_hidden_in_an_unknown_vr(group: Workers) -> None:
    """PS3.5 6.2.2: UN of undefined length is a sequence in Implicit VR."""
    inside = nested(200, explicit=False)
    identifier = struct.pack("<HH", 0x0009, 0x1001) + b"UN\0\0" + UNDEFINED
    identifier += b"\xfe\xff\x00\xe0" + UNDEFINED + inside
    with RawPeer(group.port).established() as peer:
        assert ask(peer, ID[FIND], identifier) == 0xC000
        peer.release()


def test_deflate_bomb(group: Workers) -> None:
    """200 KB that inflate to 200 MiB."""
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = deflater.compress(struct.pack("<HH", 0x0010, 0x4000) + b"UT\0\0" + struct.pack("<L", 200 << 20))
    bomb += deflater.compress(bytes(200 << 20)) + deflater.flush()
    with RawPeer(group.port).established(contexts=[ContextProposal(1, FIND, (DEFLATED,))]) as peer:
        assert ask(peer, 1, bomb) == 0xA700
        peer.release()


@pytest.mark.parametrize(
    "identifier", [b"\x08", b"\x08\x00\x05\x00CS\xff\xff", bytes(range(256)), b"\xff" * 1000], ids=len
)
def test_identifier_that_is_no_data_set(group: Workers, identifier: bytes) -> None:
    with RawPeer(group.port).established() as peer:
        assert ask(peer, ID[FIND], identifier) in (0xC000, 0)
        assert peer.echo() == 0
        peer.release()


def test_identifier_over_the_limit(group: Workers) -> None:
    """Received to its end, dropped, refused; the worker never held it."""
    before = group[0].resident()
    with RawPeer(group.port).established() as peer:
        assert ask(peer, ID[FIND], bytes(30 << 20)) == 0xA700
        assert group[0].resident() - before < 12 << 20
        assert peer.echo() == 0
        peer.release()


def test_data_set_over_the_limit(group: Workers) -> None:
    with RawPeer(group.port).established() as peer:
        try:
            peer.request(
                ID[CT], {"CommandField": 1, "AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": "1.2"}, bytes(65 << 20)
            )
            assert peer.receive()[0] in (0, 7)
        except OSError:
            pass  # our A-ABORT and close came while it was still sending
        assert peer.is_closed_within(5)


def test_exception_in_a_service(group: Workers) -> None:
    """A status, one log line with the type, nothing of the exception's text."""
    identifier = struct.pack("<HH", 0x0010, 0x0020) + b"LO\x04\x00FAIL"
    with RawPeer(group.port).established() as peer:
        assert ask(peer, ID[FIND], identifier) == 0xC000
        assert peer.echo() == 0
        peer.release()
    lines = [line for line in group[0].log().splitlines() if "RuntimeError" in line]
    assert len(lines) == 1
    assert "Doe" not in group[0].log()


def test_n_create_failure_is_processing_failure(group: Workers) -> None:
    """DIMSE-N has its own failure status, PS3.7 C.5."""
    with RawPeer(group.port).established(contexts=[ContextProposal(1, MPPS, (IMPLICIT,))]) as peer:
        peer.request(1, {"CommandField": 0x0140, "AffectedSOPClassUID": MPPS}, b"\x10\x00\x10\x00\x02\x00\x00\x00AB")
        assert peer.response()[0]["Status"] == 0
        peer.release()
