"""The port for health checks: its answers, and the bounds on what its clients can hold."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.error import HTTPError

import pytest

from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from scp import health
from scp.health import MAXIMUM_CONNECTIONS, REQUEST_TIMEOUT, HealthServer

SOON = 2.0  # seconds


class Served:
    """A server and what its front end says of itself."""

    def __init__(self) -> None:
        self.is_ready = True
        self.error: Exception | None = None
        self.port = free_port()
        self._before = set(threading.enumerate())
        self.server = HealthServer("127.0.0.1", self.port, is_ready=lambda: self.is_ready, document=self._document)

    def _document(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"Workers": []}

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def threads(self) -> int:
        """Of its connections."""
        return sum("request" in thread.name for thread in set(threading.enumerate()) - self._before)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.server.start()
    yield served
    served.server._server.shutdown()
    served.server._server.server_close()


def test_it_answers_what_a_load_balancer_and_an_operator_ask(served: Served) -> None:
    assert served.get("/health/live") == (200, {"Live": True})
    assert served.get("/health/ready") == (200, {"Ready": True})
    served.is_ready = False
    assert served.get("/health/ready") == (503, {"Ready": False})
    assert served.get("/health/live") == (200, {"Live": True})
    assert served.get("/status") == (200, {"Workers": []})
    assert served.get("/")[0] == 404


def test_a_head_request_is_answered_without_a_body(served: Served) -> None:
    with served.connect() as client, client.makefile("rb") as file:
        client.sendall(b"HEAD /health/ready HTTP/1.0\r\n\r\n")
        head, _, body = file.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert body == b""


def test_a_port_that_is_taken_is_named(served: Served) -> None:
    with pytest.raises(OSError, match="HealthPort: cannot listen on"):
        HealthServer("127.0.0.1", served.port, is_ready=lambda: True, document=dict)


@pytest.mark.parametrize("beginning", [b"", b"GET /health/live HTTP/1.0\r\n"])
@pytest.mark.parametrize("trickles", [False, True])
def test_a_request_that_does_not_come_in_time_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch, beginning: bytes, trickles: bool
) -> None:
    """However little of it comes now and then."""
    monkeypatch.setattr(health, "REQUEST_TIMEOUT", 1.0)
    begun = time.monotonic()
    with served.connect() as client:
        client.sendall(beginning)
        client.settimeout(0.1)
        while time.monotonic() - begun < 10:
            try:
                if trickles:
                    client.sendall(b"x")
                if not client.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert 0.9 < time.monotonic() - begun < 5
    wait_until(lambda: not served.threads(), SOON, "its thread has ended")


def test_whoever_holds_connections_does_not_keep_others_from_asking(served: Served) -> None:
    """They are closed, the oldest first, before their time is over."""
    with ExitStack() as held:
        begun = time.monotonic()
        clients = [held.enter_context(served.connect()) for _ in range(3 * MAXIMUM_CONNECTIONS)]
        for _ in range(10):
            assert served.get("/health/live")[0] == 200
        wait_until(lambda: served.threads() <= MAXIMUM_CONNECTIONS, SOON, "the threads of the others have ended")
        assert clients[0].recv(1) == b""
        assert time.monotonic() - begun < REQUEST_TIMEOUT
        clients[-1].sendall(b"GET /health/ready HTTP/1.0\r\n\r\n")
        assert clients[-1].recv(12) == b"HTTP/1.0 200"


def test_a_client_that_goes_leaves_nothing_and_says_nothing(
    served: Served, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2 * MAXIMUM_CONNECTIONS):
        with served.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /status HTTP/1.0\r\n")
    assert served.get("/health/live")[0] == 200  # after all of them
    wait_until(lambda: not served.threads(), SOON, "their threads have ended")
    assert not served.server._server._open  # type: ignore[attr-defined]
    assert caplog.text == ""
    assert capfd.readouterr().err == ""


def test_an_error_of_ours_is_one_line_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.error = KeyError("x")
    with served.connect() as client:
        client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b""
    wait_until(lambda: "health_request_failed reason=KeyError('x')" in caplog.text, SOON, "it is logged")
