"""MLLP: framing, split reads, bounds (HL7's Transport Specification: MLLP, Release 1)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import Hl7Settings
from scp.hl7.mllp import MllpServer
from tests.fakes.hl7_orders import Sender


@contextmanager
def server(**options: Any) -> Iterator[int]:
    """A server that answers each message with its own text in brackets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    made = MllpServer(Hl7Settings(**options), lambda content, _peer: b"[" + content + b"]" if content else None)
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
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


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
