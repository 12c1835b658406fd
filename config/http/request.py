"""One request as it is sent: its head, and a body in pieces or from a file."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from config.http.connection import Pace

if TYPE_CHECKING:
    import urllib3

Buffer: TypeAlias = bytes | memoryview

_PIECE: Final = 256 * 1024  # bytes read of a file at a time
_GIVEN_AT_ONCE: Final = 1024 * 1024  # bytes given to the kernel, which looks at no clock of ours before they are gone
_SLOWEST: Final = 4 * 1024  # bytes per second, see `Pace`: all of `ConcurrentUploads` may share a slow line


class BodyUnreadable(Exception):
    """The body could not be read: nothing is wrong with the network. `error` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class FileBody:
    """The first `size` bytes of an open file; a plain socket takes them from the page cache, without a copy of ours."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size

    def send(self, head: bytes, sock: socket.socket, pace: Pace) -> None:
        """Head and body, to a socket without TLS.

        Raises:
            BodyUnreadable: the disk failed, or the file has become shorter.
            OSError: the connection broke, or took nothing in time.
        """
        sock.sendall(head, socket.MSG_MORE if self._size else 0)  # it travels in the packet of the body
        sent = 0
        while sent < self._size:
            begun = time.monotonic()
            try:
                count = os.sendfile(sock.fileno(), self._descriptor, sent, min(self._size - sent, _GIVEN_AT_ONCE))
            except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                raise
            except OSError:  # the file's or the socket's, or this file system has no sendfile: doing both apart tells
                for piece in self._pieces(sent):
                    _send_all(sock, piece, pace)
                return
            if not count:
                raise self._shorter()
            pace.require(begun, count)
            sent += count

    def __iter__(self) -> Iterator[bytes]:
        """In pieces, for TLS. Raises BodyUnreadable."""
        return self._pieces(0)

    def _pieces(self, start: int) -> Iterator[bytes]:
        while start < self._size:
            try:
                piece = os.pread(self._descriptor, min(_PIECE, self._size - start), start)
            except OSError as error:
                raise BodyUnreadable(error) from error
            if not piece:
                raise self._shorter()
            start += len(piece)
            yield piece

    def _shorter(self) -> BodyUnreadable:
        return BodyUnreadable(OSError("the file became shorter while it was sent"))


def encoded_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The request line and its fields, as they are sent.

    Raises:
        ValueError: a line break in one of them.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a line break in a field of an HTTP request")
    return head.encode("latin-1")


def send(
    pool: urllib3.HTTPConnectionPool, connection: Any, head: bytes, body: Iterable[Buffer], timeout: float
) -> OSError | None:
    """Send it; the error if the peer has closed the connection before the end, which it may have explained.

    Raises:
        OSError: it takes nothing in time.
        ReadTimeoutError: it takes twice the time-out, and a second for each `_SLOWEST` bytes that it has taken.
    """
    sock = connection.sock
    pace = Pace(pool, 2 * timeout, _SLOWEST)
    try:
        if type(sock) is not socket.socket:  # TLS, or TLS in the TLS of a proxy
            sock.sendall(head)
        elif isinstance(body, FileBody):
            body.send(head, sock, pace)
            return None
        else:
            pieces = iter(body)
            first = next(pieces, b"")
            sent = sock.sendmsg((head, first))  # the head travels in the packet of the body
            if sent < len(head):
                sock.sendall(head[sent:])
                sent = len(head)
            _send_all(sock, memoryview(first)[sent - len(head) :], pace)
            body = pieces
        for piece in body:
            _send_all(sock, piece, pace)
    except (BrokenPipeError, ConnectionResetError) as error:
        return error
    return None


def _send_all(sock: socket.socket, piece: Buffer, pace: Pace) -> None:
    rest = memoryview(piece)
    while rest:
        begun = time.monotonic()
        count = sock.send(rest[:_GIVEN_AT_ONCE])
        pace.require(begun, count)
        rest = rest[count:]
