"""An HTTP/1.1 server for the benchmark's S3: little CPU per request, and a distance between it and its clients.

A thread for each connection: a body comes into its final buffer by one system call, and goes out of it by another.
Chunked requests are refused; S3's clients do not need them over plain HTTP. The distance is applied to every request on
its own, also on a connection that is kept alive, and requests on different connections do not wait for each other,
except for the bandwidth they share.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

CONTROL: Final = "/-/distance"  # `GET /-/distance?latency=…&bandwidth=…` (seconds, bytes per second)
_LONGEST_HEAD: Final = 65536  # bytes


@dataclass
class Distance:
    """How far away the server is; may be changed while it runs."""

    latency: float = 0.0  # seconds from the end of a request to the first byte of its answer, added to the work
    bandwidth: float = 0.0  # bytes per second in each direction, shared by all connections; 0: no limit
    _link_free: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def link(self, now: float, direction: str, size: int) -> float:
        """Seconds until `size` bytes have passed a link that others use as well."""
        if not self.bandwidth:
            return 0.0
        with self._lock:
            end = self._link_free[direction] = max(now, self._link_free.get(direction, now)) + size / self.bandwidth
        return end - now

    def delay(self, now: float, received: int, sent: int) -> float:
        """Seconds to hold back an answer whose request has been received as fast as it came."""
        return max(self.link(now, "up", received), self.link(now, "down", sent)) + self.latency

    def change(self, target: str) -> None:
        """Take latency and bandwidth from the query of a request to `CONTROL`."""
        query = dict(parse_qsl(urlsplit(target).query))
        self.latency = float(query.get("latency", 0))
        self.bandwidth = float(query.get("bandwidth", 0))


@dataclass
class Request:
    """A request whose body has arrived."""

    method: str
    target: str
    path: str  # decoded
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytearray


@dataclass
class Answer:
    """What to answer."""

    status: int
    body: bytes | bytearray | memoryview = b""
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Answer]


class Connection:
    """One kept-alive connection."""

    def __init__(self, sock: socket.socket, handler: Handler, distance: Distance) -> None:
        self._socket = sock
        self._handler = handler
        self._distance = distance
        self._rest = b""  # received of the next request

    def serve(self) -> None:
        """Answer requests until the client ends the connection or says what is not HTTP."""
        with self._socket, contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (request := self._request()) is not None:
                answer = self._answer(request)
                delay = self._distance.delay(time.monotonic(), len(request.body), len(answer.body))
                if delay > 0:
                    time.sleep(delay)
                self._send(request, answer)

    def _request(self) -> Request | None:
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            piece = self._socket.recv(_LONGEST_HEAD) if len(self._rest) < _LONGEST_HEAD else b""
            if not piece:
                return None
            self._rest += piece
        head, early = self._rest[:end], self._rest[end + 4 :]
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        url = urlsplit(target)
        body = bytearray(int(headers.get("content-length", 0)))
        received = min(len(early), len(body))
        body[:received] = early[:received]
        self._rest = early[received:]
        if headers.get("expect", "").lower() == "100-continue" and received < len(body):
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        view = memoryview(body)
        while received < len(body):
            count = self._socket.recv_into(view[received:], 0, socket.MSG_WAITALL)
            if not count:
                return None
            received += count
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return Request(method, target, unquote(url.path), query, headers, body)

    def _answer(self, request: Request) -> Answer:
        if "transfer-encoding" in request.headers:
            return Answer(HTTPStatus.LENGTH_REQUIRED)
        if request.path == CONTROL:
            self._distance.change(request.target)
            return Answer(HTTPStatus.OK)
        return self._handler(request)

    def _send(self, request: Request, answer: Answer) -> None:
        headers = {"content-length": str(len(answer.body)), "server": "bench"} | answer.headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{lines}\r\n".encode()
        body = memoryview(b"" if request.method == "HEAD" else answer.body)
        self._socket.sendall(head, socket.MSG_MORE if body else 0)
        self._socket.sendall(body)


def serve(port: int, handler: Handler, distance: Distance) -> None:
    """Answer on `port` of the loopback interface until the process ends; `handler` is asked by many threads."""
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    while True:
        connection = Connection(listener.accept()[0], handler, distance)
        threading.Thread(target=connection.serve, daemon=True).start()
