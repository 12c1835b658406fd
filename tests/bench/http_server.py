"""An HTTP/1.1 server for the benchmark's S3: little CPU per request, and a distance between it and its clients.

Bodies are received straight into their final buffer and sent from the stored one. Chunked requests are refused; S3's
clients do not need them over plain HTTP. The distance is applied to every request on its own, also on a connection that
is kept alive, and requests on different connections do not wait for each other, except for the bandwidth they share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

CONTROL: Final = "/-/distance"  # `GET /-/distance?latency=…&bandwidth=…` (seconds, bytes per second)
_LONGEST_HEAD: Final = 65536  # bytes
_BLOCK: Final = 1 << 20  # bytes handed to a transport at a time


@dataclass
class Distance:
    """How far away the server is; may be changed while it runs."""

    latency: float = 0.0  # seconds from the end of a request to the first byte of its answer, added to the work
    bandwidth: float = 0.0  # bytes per second in each direction, shared by all connections; 0: no limit
    _link_free: dict[str, float] = field(default_factory=dict)

    def link(self, now: float, direction: str, size: int) -> float:
        """Seconds until `size` bytes have passed a link that others use as well."""
        if not self.bandwidth:
            return 0.0
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


class Connection(asyncio.BufferedProtocol):
    """One kept-alive connection."""

    def __init__(self, handler: Handler, distance: Distance) -> None:
        self._handler = handler
        self._distance = distance
        self._loop = asyncio.get_running_loop()
        self._head = bytearray(_LONGEST_HEAD)
        self._filled = 0  # bytes in the head buffer
        self._request: Request | None = None
        self._received = 0  # bytes of the body
        self._rest = memoryview(b"")  # of the answer
        self._may_write = True
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=4 * _BLOCK)

    def get_buffer(self, _sizehint: int) -> memoryview:
        if self._request is not None:
            return memoryview(self._request.body)[self._received :]
        return memoryview(self._head)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._request is not None:
            self._received += nbytes
        else:
            self._filled += nbytes
            self._parse_head()
        self._answer_if_complete()

    def _parse_head(self) -> None:
        end = self._head.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled == _LONGEST_HEAD:
                self._transport.abort()
            return
        first, *lines = self._head[:end].decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        url = urlsplit(target)
        body = bytearray(int(headers.get("content-length", 0)))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        self._request = Request(method, target, unquote(url.path), query, headers, body)
        early = self._filled - end - 4
        taken = min(early, len(body))
        body[:taken] = self._head[end + 4 : end + 4 + taken]
        self._received = taken
        self._filled = early - taken
        self._head[: self._filled] = self._head[end + 4 + taken : end + 4 + early]
        if headers.get("expect", "").lower() == "100-continue" and taken < len(body):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer_if_complete(self) -> None:
        request = self._request
        if request is None or self._received < len(request.body) or self._busy:
            return
        self._busy = True
        self._transport.pause_reading()
        if "transfer-encoding" in request.headers:
            answer = Answer(HTTPStatus.LENGTH_REQUIRED)
        elif request.path == CONTROL:
            self._distance.change(request.target)
            answer = Answer(HTTPStatus.OK)
        else:
            answer = self._handler(request)
        delay = self._distance.delay(self._loop.time(), len(request.body), len(answer.body))
        if delay > 0:
            self._loop.call_later(delay, self._send, request, answer)
        else:
            self._send(request, answer)

    def _send(self, request: Request, answer: Answer) -> None:
        if self._transport.is_closing():
            return
        headers = {"content-length": str(len(answer.body)), "server": "bench"} | answer.headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._transport.write(f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{lines}\r\n".encode())
        self._rest = memoryview(b"" if request.method == "HEAD" else answer.body)
        self._pump()

    def _pump(self) -> None:
        while self._rest and self._may_write:
            self._transport.write(self._rest[:_BLOCK])
            self._rest = self._rest[_BLOCK:]
        if not self._rest and self._busy:
            self._busy = False
            self._request = None
            self._transport.resume_reading()
            if self._filled:
                self._parse_head()
                self._answer_if_complete()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._pump()


async def serve(port: int, handler: Handler, distance: Distance) -> None:
    """Answer on `port` of the loopback interface until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(handler, distance), "127.0.0.1", port, backlog=512)
    await server.serve_forever()
