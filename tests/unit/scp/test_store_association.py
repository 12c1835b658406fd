"""Outgoing associations, against our own workers, DCMTK's storescp and peers that misbehave."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from scp.statuses import NoSuitableContext
from scp.store_association import AssociationRefused, MoveOriginator, StoreAssociation, open_association
from scp.upper_layer import AssociationEnded
from scp.upper_layer.associate import AssociateRequest, ContextResult, encode_associate_accept
from scp.upper_layer.command_set import encode_command_set
from scp.upper_layer.pdu_stream import reject_pdu
from tests.fakes.raw_peer import CT, EXPLICIT, IMPLICIT, message, p_data, pdv
from tests.fakes.scp_workers import Workers, eventually, workers

CONTEXTS = [(CT, [EXPLICIT]), (CT, [IMPLICIT]), ("1.2.3.4", [IMPLICIT])]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with workers(tmp_path_factory.mktemp("spool")) as running:
        yield running


def open_to(port: int, **options: float) -> StoreAssociation:
    return open_association("127.0.0.1", port, "ISEN", "PEER", CONTEXTS, **options)  # type: ignore[arg-type]


def test_store_and_release(group: Workers) -> None:
    with open_to(group.port) as association:
        assert association.accepted_transfer_syntaxes(CT) == (EXPLICIT, IMPLICIT)
        assert association.accepts(CT, IMPLICIT)
        assert not association.accepts("1.2.3.4", IMPLICIT)
        for size in (0, 2, 1_000_000):
            status = association.store(io.BytesIO(bytes(size)), CT, "1.2.3", EXPLICIT, MoveOriginator("CT1", 7))
            assert status == 0
        with pytest.raises(NoSuitableContext):
            association.store(io.BytesIO(b""), "1.2.3.4", "1.2.3", IMPLICIT)
    eventually(lambda: group.associations() == 0)


def test_storescp_of_dcmtk_receives_the_image(tmp_path: Path) -> None:
    """Byte for byte, with the move originator accepted as an optional element."""
    tool = shutil.which("storescp")
    assert tool, "DCMTK is needed: apt-get install dcmtk"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [tool, "-od", str(tmp_path), "+B", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        eventually(lambda: is_open(port))
        path = get_testdata_file("CT_small.dcm")
        original = dcmread(path)
        raw = Path(str(path)).read_bytes()
        start = 128 + 4 + 12 + original.file_meta.FileMetaInformationGroupLength
        with open_association("127.0.0.1", port, "ISEN", "STORESCP", [(CT, [EXPLICIT])]) as association:
            encoded = io.BytesIO(raw[start:])
            assert association.store(encoded, CT, original.SOPInstanceUID, EXPLICIT, MoveOriginator("CT1", 1)) == 0
        (received,) = (entry for entry in tmp_path.iterdir())
        assert raw[start:] in received.read_bytes()
    finally:
        process.terminate()
        process.wait(5)


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(AssociationRefused, match="cannot connect"):
        open_to(port)


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Runs a function as the peer of one connection; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def run(behave: Callable[[socket.socket], None]) -> int:
        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                connection.recv(65536)
                behave(connection)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield run
    for thread in threads:
        thread.join(10)
    listener.close()


def accept(connection: socket.socket) -> None:
    request = AssociateRequest(1, "PEER", "ISEN", b" " * 32)
    results = [ContextResult(1, 0, EXPLICIT)]
    connection.sendall(
        encode_associate_accept(request, results, maximum_length=0, roles={}, extended={}, identity_response=None)
    )


Peer = Callable[[Callable[[socket.socket], None]], int]


def test_rejection_is_told(peer: Peer) -> None:
    with pytest.raises(AssociationRefused, match="rejected permanently by the service user, reason 7"):
        open_to(peer(lambda connection: connection.sendall(reject_pdu(1, 1, 7))))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"\x02\x00\xff\xff\xff\xff", b"\x02\x00\x00\x00\x00\x02ab"]
)
def test_nonsense_is_a_refusal(peer: Peer, answer: bytes) -> None:
    with pytest.raises(AssociationRefused):
        open_to(peer(lambda connection: connection.sendall(answer)))


def test_silence_is_a_refusal(peer: Peer) -> None:
    start = time.monotonic()
    with pytest.raises(AssociationRefused, match="timeout"):
        open_to(peer(lambda connection: time.sleep(0.8)), connect_timeout=0.3)
    assert time.monotonic() - start < 0.8


def test_an_answer_byte_by_byte_is_a_refusal_in_time(peer: Peer) -> None:
    """No byte comes late, and yet the whole would take an hour."""

    def behave(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"\2\0\0\0\xff\xff")
            for _ in range(200):
                connection.sendall(b"\0")
                time.sleep(0.02)

    start = time.monotonic()
    with pytest.raises(AssociationRefused, match="timeout"):
        open_to(peer(behave), connect_timeout=0.3)
    assert time.monotonic() - start < 1.5


def test_a_release_that_is_answered_byte_by_byte_is_left(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scp.store_association._GOODBYE_TIMEOUT", 0.3)

    def behave(connection: socket.socket) -> None:
        accept(connection)
        with contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"\4\0\xff\xff\xff\xff")
            for _ in range(200):
                connection.sendall(b"\0")
                time.sleep(0.02)

    association = open_to(peer(behave))
    start = time.monotonic()
    association.release()
    assert time.monotonic() - start < 1.5


def answer(connection: socket.socket, fields: dict[str, object], data: bytes | None = None) -> None:
    """Take one request of a PDU or two and answer it."""
    accept(connection)
    received = b""
    while b"information" not in received:
        received += connection.recv(65536)
    connection.sendall(b"".join(message(1, {"CommandDataSetType": 1 if data else 0x0101, **fields}, data)))
    connection.recv(65536)


def test_ps37_10_1_1_1_8_an_event_reply_may_come_with_the_response(peer: Peer) -> None:
    """A report that was taken must not be sent again for days."""
    fields = {"CommandField": 0x8100, "MessageIDBeingRespondedTo": 1, "Status": 0}
    association = open_to(peer(lambda connection: answer(connection, fields, b"an event reply")))
    assert association.report_event(CT, "1.2.3", 1, io.BytesIO(b"information."), EXPLICIT) == 0
    association.release()


def test_an_error_comment_in_the_peers_language_is_no_reason_to_abort(peer: Peer) -> None:
    """PS3.7 has none but the default repertoire there, and not everybody keeps to it."""

    def behave(connection: socket.socket) -> None:
        accept(connection)
        received = b""
        while b"information" not in received:
            received += connection.recv(65536)
        fields = {"CommandField": 0x8001, "MessageIDBeingRespondedTo": 1, "Status": 0xB000, "CommandDataSetType": 0x101}
        encoded = encode_command_set({**fields, "ErrorComment": "Gerat voll"}).replace(b"Gerat", b"Ger\xe4t")
        connection.sendall(p_data(pdv(1, 3, encoded)))
        connection.recv(65536)

    association = open_to(peer(behave))
    assert association.store(io.BytesIO(b"information."), CT, "1.2.3", EXPLICIT) == 0xB000
    association.release()


def test_a_peer_that_does_not_answer_a_store(peer: Peer) -> None:
    def behave(connection: socket.socket) -> None:
        accept(connection)
        while connection.recv(65536):
            pass

    association = open_to(peer(behave), response_timeout=0.3)
    with pytest.raises(AssociationEnded, match="timeout"):
        association.store(io.BytesIO(b"1234"), CT, "1.2.3", EXPLICIT)


def test_abort_from_another_thread_ends_a_store(peer: Peer) -> None:
    def behave(connection: socket.socket) -> None:
        accept(connection)
        while connection.recv(65536):
            pass

    association = open_to(peer(behave), response_timeout=30)
    timer = threading.Timer(0.2, association.abort)
    timer.start()
    start = time.monotonic()
    with pytest.raises(AssociationEnded):
        association.store(io.BytesIO(b"1234"), CT, "1.2.3", EXPLICIT)
    assert time.monotonic() - start < 2
    timer.join()


def test_a_source_that_fails_aborts_the_association(group: Workers) -> None:
    """Half a message cannot be taken back: the peer must not wait for the rest, nor store it."""

    class Failing(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 500_000:
                raise OSError("the source is gone")
            return super().read(size)

    association = open_to(group.port)
    with pytest.raises(OSError, match="the source is gone"):
        association.store(Failing(io.BytesIO(bytes(1_000_000))), CT, "1.2.3", EXPLICIT)
    association.release()
    eventually(lambda: group.associations() == 0)
