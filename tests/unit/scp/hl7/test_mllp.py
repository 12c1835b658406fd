"""MLLP: framing, split reads, bounds (HL7's Transport Specification: MLLP, Release 1)."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.https import verifying_context
from config.settings import Hl7Settings, TlsSettings
from scp.hl7 import mllp
from scp.hl7.mllp import MllpServer
from scp.tls import TlsContext
from tests.fakes.certificates import Certificates, make_certificates
from tests.fakes.hl7_orders import Sender


@contextmanager
def server(tls: TlsContext | None = None, **options: Any) -> Iterator[int]:
    """A server that answers each message with its own text in brackets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    made = MllpServer(Hl7Settings(**options), lambda content, _peer: b"[" + content + b"]" if content else None, tls)
    started = threading.Event()

    async def run() -> None:
        await made.start(listener)
        started.set()

    def serve() -> None:
        loop.run_until_complete(run())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(10)
    yield listener.getsockname()[1]
    loop.call_soon_threadsafe(_stop, loop)
    thread.join(10)
    loop.close()
    listener.close()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_later(0.05, loop.stop)  # once the tasks have closed their connections


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with server(message_timeout=20) as port:
        yield port


def test_messages_of_one_connection_are_answered_in_order(port: int) -> None:
    with Sender(port) as sender:
        assert sender.send("one") == "[one]"
        sender.send_bytes(b"\x0btwo\x1c\r\x0bthree\x1c\r")
        assert sender.receive() + sender.receive() == "[two][three]"


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_however_the_network_splits_them_messages_stay_whole(port: int, messages: list[bytes], data: Any) -> None:
    messages = [message.replace(b"\x0b", b"_").replace(b"\x1c", b"_") for message in messages]
    stream = b"".join(b"\x0b" + message + b"\x1c\r" for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    answers = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            connection.sendall(stream[start:end])
        expected = b"".join(b"\x0b[" + message + b"]\x1c\r" for message in messages)
        while len(answers) < len(expected):
            chunk = connection.recv(4096)
            assert chunk
            answers += chunk
    assert answers == expected


def test_what_stands_before_a_message_is_skipped_and_a_missing_trailer_is_forgiven(port: int) -> None:
    with Sender(port) as sender:
        sender.send_bytes(b"\r\n\r\n\x0bone\x1c")
        assert sender.receive() == "[one]"
        sender.send_bytes(b"\x0bbroken off\x0btwo\x1c\r")
        assert sender.receive() == "[two]"


def is_closed(sender: Sender, content: bytes) -> bool:
    """Whether the server closes the connection instead of taking all of `content`."""
    try:
        sender.send_bytes(content)
        return sender.receive() == ""
    except ConnectionError:
        return True


def test_a_message_that_is_too_long_ends_its_connection() -> None:
    with server(maximum_message_length=1024) as port, Sender(port) as sender:
        assert sender.send("x" * 1000) == f"[{'x' * 1000}]"
        assert is_closed(sender, b"\x0b" + b"x" * 200_000)


def test_garbage_without_a_message_ends_its_connection() -> None:
    with server(maximum_message_length=1024) as port, Sender(port) as sender:
        assert is_closed(sender, b"GET / HTTP/1.1\r\n" * 10_000)


def test_a_message_that_stalls_ends_its_connection() -> None:
    with server(message_timeout=0.2) as port, Sender(port) as sender:
        time.sleep(0.4)  # between messages there is no hurry
        assert sender.send("whole") == "[whole]"
        sender.send_bytes(b"\x0bhalf")
        assert sender.receive() == ""


def test_an_idle_connection_is_ended_if_so_configured() -> None:
    with server(idle_timeout=0.2) as port, Sender(port) as sender:
        assert sender.receive() == ""


def test_connections_are_bounded_and_a_place_becomes_free_again() -> None:
    with server(maximum_connections=1) as port:
        with Sender(port) as first:
            assert first.send("one") == "[one]"
            with Sender(port) as second:
                assert is_closed(second, b"\x0btwo\x1c\r")
            assert first.send("three") == "[three]"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with Sender(port) as third:
                    if third.send("four"):
                        return
            except OSError:
                pass
        pytest.fail("no place became free")


@pytest.mark.parametrize(
    ("allowed", "answered"), [("127.0.0.0/8", True), ("192.0.2.1", False), ("2001:db8::/32", False)]
)
def test_only_allowed_addresses_are_served(allowed: str, answered: bool) -> None:
    with server(allowed_addresses=(allowed,)) as port, Sender(port) as sender:
        assert is_closed(sender, b"\x0bone\x1c\r") is not answered


class TestTls:
    """PS3.15 B.12 and IHE ATNA: both sides known by their certificates."""

    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Certificates:
        return make_certificates(tmp_path)

    @pytest.fixture
    def tls(self, certificates: Certificates) -> TlsContext:
        files = TlsSettings(
            certificate=certificates.server,
            private_key=certificates.server_key,
            trusted_certificates=certificates.authority,
        )
        return TlsContext(files, server_side=True)

    def client(self, certificates: Certificates, *, known: bool = True) -> ssl.SSLContext:
        context = verifying_context(certificates.authority)
        if known:
            context.load_cert_chain(certificates.client, certificates.client_key)
        return context

    def test_a_sender_with_a_trusted_certificate_is_served(self, tls: TlsContext, certificates: Certificates) -> None:
        with server(tls) as port, Sender(port, self.client(certificates)) as sender:
            assert sender.send("one") == "[one]"
            assert sender.send("x" * 100_000) == f"[{'x' * 100_000}]"

    def test_nobody_else_is(self, tls: TlsContext, certificates: Certificates) -> None:
        with server(tls) as port:
            with Sender(port) as plain:
                assert is_closed(plain, b"\x0bone\x1c\r")
            with pytest.raises(OSError), Sender(port, self.client(certificates, known=False)) as unknown:  # noqa: PT012
                answer = unknown.send("one")
                raise ConnectionError(answer)  # TLS 1.3: the refusal may only show as the end of the stream
            with Sender(port, self.client(certificates)) as sender:
                assert sender.send("two") == "[two]"

    def test_handshakes_that_stall_are_bounded_and_end(
        self, tls: TlsContext, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mllp, "HANDSHAKE_TIMEOUT", 0.5)
        with server(tls, maximum_connections=2) as port:
            stalled = [Sender(port) for _ in range(2)]
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    with Sender(port, self.client(certificates)) as sender:
                        if sender.send("one") == "[one]":
                            break
                except OSError:
                    pass
            else:
                pytest.fail("no place became free")
            assert all(one.receive() == "" for one in stalled)

    def test_a_new_certificate_is_shown_to_the_next_connection(
        self, tls: TlsContext, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with server(tls) as port, Sender(port, self.client(certificates)) as before:
            (tmp_path / "new").mkdir()
            other = make_certificates(tmp_path / "new")
            for old, new in zip(
                (certificates.server, certificates.server_key, certificates.authority),
                (other.server, other.server_key, other.authority),
                strict=True,
            ):
                shutil.move(new, old)
            monkeypatch.setattr(tls, "_next_look", 0.0)
            context = verifying_context(certificates.authority)
            context.load_cert_chain(other.client, other.client_key)
            with Sender(port, context) as after:
                assert after.send("two") == "[two]"
            assert before.send("one") == "[one]"
