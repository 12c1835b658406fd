"""The small client of Orthanc's REST API, against a real HTTP server."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backend.maintenance.rest import Address, OrthancRefused, OrthancRest, OrthancUnavailable, Throttle

ANSWERS = {"/ok": (200, b'{"a": 1}'), "/none": (404, b"{}"), "/text": (200, b"no JSON"), "/full": (507, b"{}")}


class Handler(BaseHTTPRequestHandler):
    """Answers by the path; refuses who is not alice."""

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(b"alice:s/3").decode()
        status, body = ANSWERS[self.path] if self.headers.get("Authorization") == expected else (401, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the standard library looks for this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("in_url", [True, False])
def test_answers_are_told_apart(port: int, in_url: bool) -> None:
    url = f"http://{'alice:s%2F3@' if in_url else ''}127.0.0.1:{port}"
    rest = OrthancRest(Address(url, "alice", "s/3") if not in_url else Address(url), connections=2)
    assert rest.get("/ok") == {"a": 1}
    assert rest.get("/none") is None
    with pytest.raises(OrthancRefused, match="507"):
        rest.get("/full")
    with pytest.raises(OrthancUnavailable, match="not JSON"):
        rest.get("/text")


def test_refused_credentials_are_named_without_being_told(port: int) -> None:
    rest = OrthancRest(Address(f"http://alice:wrong-secret@127.0.0.1:{port}"), connections=1)
    with pytest.raises(OrthancUnavailable, match="ISEN_URL") as refused:
        rest.get("/ok")
    assert "wrong-secret" not in str(refused.value)
    assert "secret" not in repr(Address("http://x", "alice", "secret"))


@pytest.mark.parametrize("url", ["127.0.0.1:8042", "file:///etc/passwd", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(OrthancUnavailable):
        OrthancRest(Address(url), connections=1)


def test_nobody_there_is_a_sentence() -> None:
    with pytest.raises(OrthancUnavailable, match="is Orthanc running"):
        OrthancRest(Address("http://127.0.0.1:1"), connections=1).get("/system")


def test_the_throttle_lets_through_so_many_a_second() -> None:
    throttle, started = Throttle(50), time.monotonic()
    threads = [threading.Thread(target=lambda: [throttle.wait() for _ in range(5)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 14 / 50
    started = time.monotonic()
    for _ in range(1000):
        Throttle(0).wait()
    assert time.monotonic() - started < 1
