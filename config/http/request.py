"""One request as it is sent: its head, and a body in pieces or from a file."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

Buffer: TypeAlias = bytes | memoryview

_PIECE: Final = 256 * 1024  # bytes read of a file at a time


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

    def send(self, head: bytes, sock: socket.socket) -> None:
        """Head and body, to a socket without TLS.

        Raises:
            BodyUnreadable: the disk failed, or the file has become shorter.
            OSError: the connection broke, or took nothing in time.
        """
        sock.sendall(head, socket.MSG_MORE if self._size else 0)  # it travels in the packet of the body
        sent = 0
        while sent < self._size:
            try:
                count = os.sendfile(sock.fileno(), self._descriptor, sent, self._size - sent)
            except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                raise
            except OSError:  # the file's or the socket's, or this file system has no sendfile: doing both apart tells
                for piece in self._pieces(sent):
                    sock.sendall(piece)
                return
            if not count:
                raise self._shorter()
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


def send(connection: Any, head: bytes, body: Iterable[Buffer]) -> OSError | None:
    """Send it; the error if the peer has closed the connection before the end, which it may have explained."""
    sock = connection.sock
    try:
        if type(sock) is not socket.socket:  # TLS, or TLS in the TLS of a proxy
            sock.sendall(head)
        elif isinstance(body, FileBody):
            body.send(head, sock)
            return None
        else:
            pieces = iter(body)
            first = next(pieces, b"")
            sent = sock.sendmsg((head, first))  # the head travels in the packet of the body
            if sent < len(head):
                sock.sendall(head[sent:])
                sent = len(head)
            if sent < len(head) + len(first):
                sock.sendall(memoryview(first)[sent - len(head) :])
            body = pieces
        for piece in body:
            sock.sendall(piece)
    except (BrokenPipeError, ConnectionResetError) as error:
        return error
    return None
