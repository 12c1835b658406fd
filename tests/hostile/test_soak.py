"""The long runs, with `make soak`: a million mutated PDUs through the decoders, tens of thousands over TCP."""

from __future__ import annotations

import io
import random
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from config.settings import DicomSettings
from scp.upper_layer.associate import decode_associate_request
from scp.upper_layer.associate_requestor import decode_associate_accept
from scp.upper_layer.command_set import encode_command_set
from scp.upper_layer.errors import AssociationEnded
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import MessageReader
from scp.upper_layer.pdu_stream import PduStream
from tests.fakes.raw_peer import CT, IMPLICIT, VERIFICATION, RawPeer, p_data, pdv
from tests.fakes.scp_workers import Workers
from tests.hostile.test_pdus import REQUEST, mutate, run_mutations

SEED = 20260301
LIMITS = replace(Limits.of(DicomSettings()), maximum_command_length=65536)
ECHO = {"CommandField": 0x30, "MessageID": 1, "AffectedSOPClassUID": VERIFICATION, "CommandDataSetType": 0x0101}
STORE = {**ECHO, "CommandField": 1, "AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": "1.2", "CommandDataSetType": 1}
MESSAGES = (
    p_data(pdv(3, 1, encode_command_set(STORE)[:40]), pdv(3, 3, encode_command_set(STORE)[40:]))
    + p_data(pdv(3, 0, bytes(100)), pdv(3, 2, bytes(100)))
    + p_data(pdv(1, 3, encode_command_set(ECHO)))
)
ACCEPT = (
    bytes(68)
    + b"\x21\x00\x00\x19\x01\x00\x00\x00\x40\x00\x00\x11"
    + IMPLICIT.encode()
    + b"\x50\x00\x00\x08\x51\x00\x00\x04\x00\x00\x40\x00"
)


class Received:
    """A transport that has received everything already."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def receive_into(self, view: memoryview) -> int:
        return self._content.readinto(view)

    def wait_readable(self, timeout: float | None) -> bool:
        return True


def read_messages(content: bytes) -> None:
    reader = MessageReader(PduStream(Received(content), pdu_timeout=1), LIMITS)  # type: ignore[arg-type]
    while True:
        command = reader.read_command(1)
        if command.has_data_set:
            reader.read_data_set(command, io.BytesIO())


DECODERS: dict[str, tuple[Callable[[bytes], object], bytes, int]] = {
    "A-ASSOCIATE-RQ": (lambda content: decode_associate_request(content, 512), REQUEST[6:], 400_000),
    "A-ASSOCIATE-AC": (decode_associate_accept, ACCEPT, 100_000),
    "P-DATA-TF": (read_messages, MESSAGES, 500_000),
}


def attack(name: str, count: int) -> tuple[float, int]:
    """Decode `count` mutations; the slowest one in seconds, and the growth of the peak memory in bytes.

    Anything but `AssociationEnded` and its kinds passes through and fails the test.
    """
    decode, content, _ = DECODERS[name]
    source = random.Random(SEED)
    slowest, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        mutated = mutate(source, content)
        start = time.perf_counter()
        try:
            decode(mutated)
        except AssociationEnded:
            pass
        slowest = max(slowest, time.perf_counter() - start)
    return slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


@pytest.mark.parametrize("name", DECODERS)
def test_some_mutations(name: str) -> None:
    """Part of every run; the seed is the soak's, so that its first failures show early."""
    assert attack(name, 3000)[0] < 1


@pytest.mark.soak
@pytest.mark.parametrize("name", DECODERS)
def test_a_million_mutations(name: str) -> None:
    """No crash, nothing over a second, no growth over 20 MiB."""
    attack(name, 5000)
    slowest, growth = attack(name, DECODERS[name][2])
    print(
        f"{name}: {DECODERS[name][2]} mutated PDUs, slowest {slowest * 1000:.1f} ms, growth {growth / 1024**2:.1f} MiB"
    )
    assert slowest < 1
    assert growth < 20 * 1024 * 1024


@pytest.mark.soak
def test_twenty_thousand_mutations_over_tcp(group: Workers) -> None:
    before = group[0].resident()
    run_mutations(group.port, SEED, 20_000)
    growth = group[0].resident() - before
    print(f"20000 mutated exchanges, worker grew {growth / 1024**2:.1f} MiB")
    assert growth < 20 * 1024 * 1024


@pytest.mark.soak
def test_an_hour_of_associations_in_minutes(group: Workers) -> None:
    """Twenty thousand short associations with an echo and a small image each leave nothing behind."""
    before = group[0].resident()
    for _ in range(20_000):
        with RawPeer(group.port).established() as peer:
            peer.echo()
            peer.store(bytes(1000))
            peer.release()
    growth = group[0].resident() - before
    print(f"20000 associations, worker grew {growth / 1024**2:.1f} MiB")
    assert growth < 20 * 1024 * 1024
