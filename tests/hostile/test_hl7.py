"""The HL7 listener, as a process of its own, under hostile bytes: it answers or hangs up, and nothing stays behind."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backend.stack.ports import free_port
from config.https import verifying_context
from config.settings import Hl7Settings, ScpSettings, TlsSettings, WorklistSettings
from scp.worklists.store import WorklistStore
from tests.fakes.certificates import make_certificates
from tests.fakes.hl7_orders import Sender, code_of, omi, orm
from tests.fakes.scp_workers import WorkerProcess, eventually

LONGEST = 4096  # bytes of a message
ROUNDS = 400
MEMORY_TOLERANCE = 24 * 1024 * 1024  # bytes


class Listener:
    """The process, and where it listens."""

    def __init__(self, folder: Path, tls: TlsSettings | None = None, client: ssl.SSLContext | None = None) -> None:
        self.client = client
        self.folder = folder / "managed"
        self.port = free_port()
        settings = ScpSettings(
            directory=folder / "spool",
            worklists=WorklistSettings(managed_directory=self.folder),
            hl7=Hl7Settings(
                port=self.port,
                bind_address="127.0.0.1",
                maximum_message_length=LONGEST,
                maximum_connections=8,
                message_timeout=2.0,
                maximum_rejected_messages=20,
                tls=tls,
            ),
        )
        self.process = WorkerProcess("scp.hl7", {"Settings": settings.model_dump(mode="json", by_alias=True)}, ())
        self.process.wait_for(lambda process: any(one["Event"] == "ready" for one in process.events))

    def is_healthy(self) -> bool:
        with Sender(self.port, self.client) as sender:
            return code_of(sender.send(orm("HEALTHY"))) == "AA"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path)
    yield made
    made.process.stop()


def hostile(chance: random.Random) -> bytes:
    """Damaged orders, garbage, half frames, floods of delimiters; with and without a frame."""
    order = bytearray(chance.choice([orm(), omi()]).encode())
    kind = chance.randrange(6)
    if kind == 0:
        for _ in range(chance.randrange(1, 30)):
            order[chance.randrange(len(order))] = chance.randrange(256)
    elif kind == 1:
        del order[chance.randrange(len(order)) :]
    elif kind == 2:
        order = bytearray(chance.randbytes(chance.randrange(1, LONGEST * 2)))
    elif kind == 3:
        order = bytearray(b"MSH|^~\\&|" + chance.choice([b"|", b"^", b"~", b"&", b"\r", b"\\"]) * (LONGEST - 20))
    elif kind == 4:
        order += chance.choice([b"\r", b"\n", b"\0"]) * chance.randrange(1, 200)
    framing = chance.randrange(4)
    start = b"" if framing == 0 else b"\x0b" * chance.randrange(1, 3)
    end = b"" if framing in (0, 1) else chance.choice([b"\x1c\r", b"\x1c", b"\x1c\x1c\r"])
    return start + bytes(order) + end


def attack(port: int, chance: random.Random) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for _ in range(chance.randrange(1, 4)):
            connection.sendall(hostile(chance))
        connection.settimeout(0.02)
        if chance.randrange(2):
            connection.recv(65536)
        if chance.randrange(2):  # reset in place of an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_hostile_bytes_neither_stop_it_nor_stay(listener: Listener) -> None:
    chance = random.Random(20240229)
    for _ in range(30):  # what is allocated once counts as there before
        attack(listener.port, chance)
    eventually(lambda: _answers(listener), 20)
    before, descriptors = listener.process.resident(), listener.process.descriptors()
    for _ in range(ROUNDS):
        attack(listener.port, chance)
    eventually(lambda: _answers(listener), 20)
    eventually(lambda: listener.process.descriptors() <= descriptors, 20)
    assert listener.process.resident() < before + MEMORY_TOLERANCE
    assert listener.process.process.poll() is None
    assert len(list((listener.folder / "rejected").iterdir())) <= 20
    for stored in WorklistStore(listener.folder).page(0, 1000):  # whatever was made of damaged orders is whole
        assert stored.order_key
    log = listener.process.log()
    assert "Traceback" not in log
    assert "hl7_message_failed" not in log
    assert not any(name in log for name in ("Muster", "Yamada", "Jürgen"))


def test_connections_that_stall_make_room_for_others(listener: Listener) -> None:
    stalled = [socket.create_connection(("127.0.0.1", listener.port), timeout=5) for _ in range(8)]
    for connection in stalled:
        connection.sendall(b"\x0bMSH|")
    try:
        eventually(lambda: _answers(listener), 20)
    finally:
        for connection in stalled:
            connection.close()


def test_over_tls_only_who_is_trusted_is_heard(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    client = verifying_context(certificates.authority)
    client.load_cert_chain(certificates.client, certificates.client_key)
    tls = TlsSettings(
        certificate=certificates.server,
        private_key=certificates.server_key,
        trusted_certificates=certificates.authority,
    )
    listener = Listener(tmp_path, tls, client)
    try:
        chance = random.Random(7)
        for _ in range(50):
            attack(listener.port, chance)  # in the clear
        eventually(lambda: _answers(listener), 20)
        assert not list((listener.folder / "rejected").iterdir())  # no byte of it was taken for a message
        assert "Traceback" not in listener.process.log()
    finally:
        listener.process.stop()


def _answers(listener: Listener) -> bool:
    try:
        return listener.is_healthy()
    except (OSError, StopIteration):  # refused, or hung up without an answer
        return False
