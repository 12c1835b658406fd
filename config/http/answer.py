"""One answer: its head, and its body however it is framed."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from urllib3.exceptions import HTTPError, ProtocolError

from config.http.connection import Pace, end, translated

if TYPE_CHECKING:
    import urllib3

LONGEST_HEAD: Final = 64 * 1024  # bytes of status line and fields
HEAD: Final = 4096  # bytes asked for with the head: more of the body would have to be copied
_LONGEST_LINE: Final = 4096  # bytes before and after a chunk
_RECEIVE: Final = 64 * 1024  # bytes asked of a socket while it is unknown how many will come
_PIECE: Final = 256 * 1024  # bytes asked of a socket at most
_INTERIM: Final = 8  # answers 1xx before the one that counts
_SLOWEST: Final = 16 * 1024  # bytes per second; see `Answer`
_WORTH_DRAINING: Final = 64 * 1024  # bytes of a body that are read so that the connection can be used again
_LARGEST_RECORD: Final = 16384  # bytes in a record of TLS
_RECORD_OVERHEAD: Final = 21  # bytes beside them, at least (TLS 1.2 with ChaCha20)
_NO_BODY: Final = (204, 304)


class Answer:
    """Status, headers and body of one answer; leaving its `with` block gives the connection back, or closes it.

    All of it is waited for twice its time-out, or `patience`, and a second for each `_SLOWEST` bytes that come.
    """

    def __init__(
        self,
        pool: urllib3.HTTPConnectionPool,
        connection: Any,
        method: str,
        timeout: float,
        broken: OSError | None = None,
        *,
        received: bytes = b"",
        patience: float | None = None,
    ) -> None:
        """Reads status and headers, which begin with `received`. `timeout` is that of each wait, in seconds.

        `broken` is why the request could not be sent whole: an answer may explain it.
        """
        self._pool = pool
        self._connection = connection
        self._socket = connection.sock
        self._whole = socket.MSG_WAITALL if type(connection.sock) is socket.socket else 0  # TLS knows no flags
        self._rest = received  # and not looked at
        self._pace = Pace(pool, 2 * timeout if patience is None else patience, _SLOWEST)
        try:
            self.status, self.headers, version = self._read_head()
        except (OSError, HTTPError):
            if broken is not None:
                raise broken from None
            raise
        words = self.headers.get("connection", "").lower()
        self._is_kept = broken is None and "close" not in words and (version >= "1.1" or "keep-alive" in words)
        self._is_chunked = False
        self._left: int | None = 0  # bytes of the body, or of its chunk; None: until the connection ends
        if method != "HEAD" and self.status not in _NO_BODY:
            self._frame()

    def read(self, limit: int | None = None) -> bytes:
        """The rest of the body, or its next `limit` bytes if it has that many."""
        pieces = []
        while limit is None or limit > 0:
            piece = self.read1(min(limit or self._left or _RECEIVE, _PIECE))
            if not piece:
                break
            pieces.append(piece)
            if limit is not None:
                limit -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, limit: int) -> bytes:
        """What one look at the socket brings, `limit` bytes at most; empty at the end.

        Raises:
            urllib3.exceptions.HTTPError: it ends early, or breaks.
        """
        wanted = self._wanted(limit)
        if self._rest:
            piece, self._rest = self._rest[:wanted], self._rest[wanted:]
        else:
            piece = self._receive(wanted) if wanted else b""
        self._note(len(piece), wanted)
        return piece

    def readinto1(self, buffer: memoryview) -> int:
        """Into `buffer`, without a copy, as much as comes in time: all of it, unless TLS gives a record at a time.

        Raises:
            as `read1`
        """
        wanted = self._wanted(len(buffer))
        if self._rest:
            piece, self._rest = self._rest[:wanted], self._rest[wanted:]
            count = len(piece)
            buffer[:count] = piece
        else:
            begun = time.monotonic()
            try:
                count = self._socket.recv_into(buffer, wanted, self._whole) if wanted else 0
            except OSError as error:
                raise translated(self._pool, error) from error
            self._pace.require(begun, count)
        self._note(count, wanted)
        return count

    @property
    def missing(self) -> int:
        """Bytes of the body that have not been received; 0 also if it does not say how long it is."""
        if self._left is None or self._is_chunked:
            return 0
        return max(0, self._left - len(self._rest) - (0 if self._whole else self._socket.pending()))

    @property
    def is_here(self) -> bool:
        """Whether all of the body has come; False also if it does not say how long it is."""
        if self._left is None or self._is_chunked:
            return False
        (come,) = struct.unpack("@i", fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)))
        return bool(come >= self.on_the_wire)

    @property
    def on_the_wire(self) -> int:
        """What `missing` needs there, at least: each record of TLS adds something."""
        missing = self.missing
        return missing if self._whole else missing + _RECORD_OVERHEAD * -(-missing // _LARGEST_RECORD)

    def wake_at(self, count: int) -> None:
        """Let poll(2) find the connection readable when so many bytes have come; the kernel makes room for them."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def close(self) -> None:
        """End the connection; unread bytes may follow, so it cannot be used again."""
        if self._connection is not None:
            end(self._pool, self._connection)
            self._connection = None

    def release(self) -> None:
        """Give the connection back if the body has been read, or what is left of it is small."""
        if self._connection is None:
            return
        try:
            if self._is_kept and self._left is not None and (self._is_chunked or self._left <= _WORTH_DRAINING):
                self.read(_WORTH_DRAINING)
        except HTTPError:
            self._is_kept = False
        if self._is_kept and self._left == 0 and not self._is_chunked and not self._rest:
            self._pool._put_conn(self._connection)  # noqa: SLF001 - urllib3 has no other way
            self._connection = None
        else:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.release()
        else:
            self.close()

    def _read_head(self) -> tuple[int, dict[str, str], str]:
        for _ in range(_INTERIM):
            while (end := self._rest.find(b"\r\n\r\n")) < 0:
                if len(self._rest) > LONGEST_HEAD:
                    raise ProtocolError("the head of the answer does not end")
                piece = self._receive(HEAD)
                if not piece:
                    raise ProtocolError("the connection was closed without an answer")
                self._rest += piece
            head, self._rest = self._rest[:end].decode("latin-1"), self._rest[end + 4 :]
            status_line, *lines = head.split("\r\n")
            if not (status_line.startswith("HTTP/1.") and status_line[9:12].isdecimal()):
                raise ProtocolError("what answers does not speak HTTP/1")
            status = int(status_line[9:12])
            if status >= 200:
                return status, _fields(lines), status_line[5:8]
        raise ProtocolError("the answer does not come after many that announce it")

    def _frame(self) -> None:
        """How long the body is (RFC 9112, 6.3)."""
        if "transfer-encoding" in self.headers:
            if self.headers["transfer-encoding"].strip().lower() != "chunked":
                raise ProtocolError("the answer has a transfer coding that was not asked for")
            self._is_chunked = True
            self._is_kept &= "content-length" not in self.headers  # somebody between may see another end than we
        elif "content-length" in self.headers:
            length = self.headers["content-length"]
            if not (length.isascii() and length.isdecimal()):
                raise ProtocolError("the length of the answer is no number")
            self._left = int(length)
        else:
            self._left, self._is_kept = None, False

    def _wanted(self, limit: int) -> int:
        if self._left == 0 and self._is_chunked:
            self._next_chunk()
        return limit if self._left is None else min(limit, self._left)

    def _note(self, count: int, wanted: int) -> None:
        """So many bytes have come; a chunk is followed by an empty line."""
        if self._left is None:
            return
        if not count and wanted:
            raise ProtocolError(f"the connection ended {self._left} bytes early")
        self._left -= count
        if self._is_chunked and count and not self._left and self._line():
            raise ProtocolError("a chunk of the answer has not its length")

    def _next_chunk(self) -> None:
        size = self._line().partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise ProtocolError("a chunk of the answer has no length") from None
        if self._left < 0:
            raise ProtocolError("a chunk of the answer has no length")
        if not self._left:
            trailers = 0
            while line := self._line():
                trailers += len(line)
                if trailers > LONGEST_HEAD:
                    raise ProtocolError("the answer does not end")
            self._is_chunked = False

    def _line(self) -> bytes:
        while (end := self._rest.find(b"\r\n")) < 0:
            piece = b"" if len(self._rest) > _LONGEST_LINE else self._receive(_RECEIVE)
            if not piece:
                raise ProtocolError("the answer ends within a chunk")
            self._rest += piece
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        return line

    def _receive(self, size: int) -> bytes:
        begun = time.monotonic()
        try:
            received: bytes = self._socket.recv(size) or b""  # TLS in TLS ends with 0
        except OSError as error:
            raise translated(self._pool, error) from error
        self._pace.require(begun, len(received))
        return received


def _fields(lines: Iterable[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        value = value.strip()
        if not colon or not name or " " in name or "\t" in name:
            raise ProtocolError("the answer has a field without a name")
        if name not in fields:
            fields[name] = value
        elif name == "content-length":
            if fields[name] != value:
                raise ProtocolError("the answer has two lengths")
        else:
            fields[name] += f", {value}"
    return fields
