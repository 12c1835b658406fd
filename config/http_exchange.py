"""HTTP/1.1 for the requests that come with every image, at a fraction of the CPU that urllib3 needs for one.

urllib3 makes the connections and keeps them: its pool, names, proxies, TLS and their errors. What goes over a
connection then is ours (RFC 9112): one request, its answer, nothing interpreted that nobody needs.
`python -m tests.bench` shows the CPU that each process needs for an image.

Whatever breaks is an exception of urllib3: ProtocolError if the peer does not speak HTTP or has closed the connection,
ReadTimeoutError if it says nothing in time or too little, SSLError for TLS, and those of connecting.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, SSLError

if TYPE_CHECKING:
    import urllib3

Buffer: TypeAlias = bytes | memoryview

LARGEST_AWAITED: Final = 1024 * 1024  # bytes that the kernel may hold of a body that nobody reads yet

_LONGEST_HEAD: Final = 64 * 1024  # bytes of status line and fields
_LONGEST_LINE: Final = 4096  # bytes before and after a chunk
_RECEIVE: Final = 64 * 1024  # bytes asked of a socket while it is unknown how many will come
_HEAD: Final = 4096  # bytes asked for with the head: more of the body would have to be copied
_PIECE: Final = 256 * 1024  # bytes asked of a socket at most
_INTERIM: Final = 8  # answers 1xx before the one that counts
_SLOWEST: Final = 16 * 1024  # bytes per second; see `Answer`
_WORTH_DRAINING: Final = 64 * 1024  # bytes of a body that are read so that the connection can be used again
_LARGEST_RECORD: Final = 16384  # bytes in a record of TLS
_RECORD_OVERHEAD: Final = 21  # bytes beside them, at least (TLS 1.2 with ChaCha20)
_NO_BODY: Final = (204, 304)


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


def exchange(
    pool: urllib3.HTTPConnectionPool,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Iterable[Buffer] = (),
    *,
    timeout: float,
    pool_timeout: float | None = None,
) -> Answer:
    """Send one request and return its answer, whose body is still to be read.

    `headers` are complete, `host` and `content-length` included. `timeout` is in seconds, for each piece of the body
    and each wait for bytes, and one for all requests of a pool; `pool_timeout` for a connection to become free, if the
    pool has a limit.

    Raises:
        urllib3.exceptions.HTTPError: there is no answer; see the module. What `body` raises passes through, but for
            OSError.
        BodyUnreadable: of a FileBody.
    """
    head = _head(method, target, headers)
    connection = pool._get_conn(timeout=pool_timeout)  # noqa: SLF001 - urllib3 has no other way to lend a connection
    with _lent(pool, connection):
        _make_ready(pool, connection, timeout)
        return Answer(pool, connection, method, timeout, _sent(connection, head, body))


def ask(
    pool: urllib3.HTTPConnectionPool,
    method: str,
    target: str,
    headers: Mapping[str, str],
    *,
    timeout: float,
    may_connect: bool,
) -> Asked | None:
    """Send one request without a body, and return; None: it would have to connect first, which may take a while.

    Raises:
        urllib3.exceptions.HTTPError: it could not be sent.
    """
    head = _head(method, target, headers)
    connection = pool._get_conn()  # noqa: SLF001 - as above
    if connection.is_closed and not may_connect:
        pool._put_conn(connection)  # noqa: SLF001 - as above
        return None
    with _lent(pool, connection):
        if _make_ready(pool, connection, timeout):
            _open_window(connection)
        broken = _sent(connection, head, ())
        if broken is not None:
            raise broken
    return Asked(pool, connection, method, timeout)


class Asked:
    """A request whose answer somebody waits for with poll(2). Close it if `answer` was not called."""

    def __init__(self, pool: urllib3.HTTPConnectionPool, connection: Any, method: str, timeout: float) -> None:
        self._pool = pool
        self._connection = connection
        self._method = method
        self._timeout = timeout
        self._received = b""
        self._answer: Answer | None = None
        self._error: HTTPError | None = None
        self._is_awaited = False  # the body

    def fileno(self) -> int:
        descriptor: int = self._connection.sock.fileno()
        return descriptor

    def missing(self) -> int:
        """How many bytes have to come before all is here, as far as that is known now; 0: nothing is worth waiting for.

        Never waits. `fileno` becomes readable when they have come, up to `LARGEST_AWAITED`; then this has to be called
        again. What breaks is told by `answer`.
        """
        if self._is_awaited or self._error is not None:
            return 0
        if self._answer is None:
            try:
                if not self._has_head():
                    return 1
                if self._received[9:10] == b"1":  # an interim answer: the one that counts comes when it likes
                    return 0
                self._answer = self._begun()
            except (OSError, HTTPError) as error:
                self._error = _translated(self._pool, error)
                return 0
        missing = self._answer.missing
        if missing:
            self._is_awaited = True
            self._answer.wake_at(min(self._answer.on_the_wire, LARGEST_AWAITED))
        return missing

    @property
    def is_here(self) -> bool:
        """Whether `answer` and its whole body can be read now, without waiting, and it is no failure."""
        answer = self._answer
        return self._error is None and answer is not None and answer.status == 200 and answer.is_here

    def answer(self) -> Answer:
        """The answer, whose body is still to be read; once.

        Raises:
            urllib3.exceptions.HTTPError: there is none.
        """
        if self._error is not None:
            self.close()
            raise self._error
        answer = self._answer or self._begun()
        if self._is_awaited:
            answer.wake_at(1)
        self._answer = self._connection = None
        return answer

    def close(self) -> None:
        if self._connection is not None:
            _end(self._pool, self._connection)
            self._connection = None

    def _begun(self) -> Answer:
        connection, self._connection = self._connection, None
        with _lent(self._pool, connection):
            answer = Answer(self._pool, connection, self._method, self._timeout, received=self._received)
        self._connection = connection
        return answer

    def _has_head(self) -> bool:
        """Receive what has come of it; whether that is all of it, or the connection has ended."""
        sock = self._connection.sock
        timeout = sock.gettimeout()
        try:
            if timeout is not None:  # TLS
                sock.settimeout(0)
            while b"\r\n\r\n" not in self._received and len(self._received) <= _LONGEST_HEAD:
                piece = sock.recv(_HEAD, socket.MSG_DONTWAIT if timeout is None else 0)
                if not piece:
                    break
                self._received += piece
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        finally:
            if timeout is not None:
                sock.settimeout(timeout)
        return True


class Answer:
    """Status, headers and body of one answer; leaving its `with` block gives the connection back, or closes it.

    All of it together is waited for twice its time-out, and a second for each `_SLOWEST` bytes that come: a peer that
    sends a byte now and then does not hold us for as long as it likes.
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
    ) -> None:
        """Reads status and headers, which begin with `received`. `timeout` is that of each wait, in seconds.

        `broken` is why the request could not be sent whole: an answer may explain it.
        """
        self._pool = pool
        self._connection = connection
        self._socket = connection.sock
        self._whole = socket.MSG_WAITALL if type(connection.sock) is socket.socket else 0  # TLS knows no flags
        self._rest = received  # and not looked at
        self._patience = 2 * timeout  # seconds
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
                raise _translated(self._pool, error) from error
            self._require_pace(begun, count)
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
            _end(self._pool, self._connection)
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
            self._pool._put_conn(self._connection)  # noqa: SLF001 - see `exchange`
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
                if len(self._rest) > _LONGEST_HEAD:
                    raise ProtocolError("the head of the answer does not end")
                piece = self._receive(_HEAD)
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
                if trailers > _LONGEST_HEAD:
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
            raise _translated(self._pool, error) from error
        self._require_pace(begun, len(received))
        return received

    def _require_pace(self, begun: float, count: int) -> None:
        """So many bytes have come since then."""
        self._patience += count / _SLOWEST - (time.monotonic() - begun)
        if self._patience < 0:
            raise ReadTimeoutError(self._pool, "", "the answer comes too slowly")


def _end(pool: urllib3.HTTPConnectionPool, connection: Any) -> None:
    """Close the connection; its place in the pool is free again."""
    connection.close()
    pool._put_conn(None)  # noqa: SLF001 - urllib3 has no other way to give it back


@contextmanager
def _lent(pool: urllib3.HTTPConnectionPool, connection: Any) -> Iterator[None]:
    """Close the connection if the block fails, with an error of urllib3's."""
    try:
        yield
    except BaseException as error:
        _end(pool, connection)
        if isinstance(error, (OSError, ssl.CertificateError)):
            raise _translated(pool, error) from error
        raise


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a line break in a field of an HTTP request")
    return head.encode("latin-1")


def _connect(pool: urllib3.HTTPConnectionPool, connection: Any) -> None:
    connection.timeout = pool.timeout.connect_timeout
    proxy = pool.proxy
    # connections to a proxy's own host and port are for requests that it forwards, also if it speaks TLS
    if proxy is not None and pool.scheme == "https" and (pool.host, pool.port) != (proxy.host, proxy.port):
        pool._prepare_proxy(connection)  # noqa: SLF001 - asks the proxy for a tunnel
    else:
        connection.connect()


def _make_ready(pool: urllib3.HTTPConnectionPool, connection: Any, timeout: float) -> bool:
    """Connect it, if it is not; whether it was new."""
    is_new: bool = connection.is_closed
    if is_new:
        _connect(pool, connection)
    if is_new or connection.sock.gettimeout() is not None:  # urllib3 itself has used it
        _limit(connection, timeout)
    return is_new


def _open_window(connection: Any) -> None:
    """Have the kernel make room for a whole answer before it comes; else poll(2) ends when a small window is full."""
    for count in (LARGEST_AWAITED, 1):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


def _limit(connection: Any, timeout: float) -> None:
    """Have each wait on it end after `timeout` seconds."""
    sock = connection.sock
    if type(sock) is not socket.socket:
        sock.settimeout(timeout)
        return
    # the system's time-out: with Python's each operation takes two system calls, and MSG_WAITALL has no effect
    sock.settimeout(None)
    period = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, period)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, period)


def _sent(connection: Any, head: bytes, body: Iterable[Buffer]) -> OSError | None:
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


def _translated(pool: urllib3.HTTPConnectionPool, error: Exception) -> HTTPError:
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, (TimeoutError, BlockingIOError)):  # the latter is the system's time-out
        return ReadTimeoutError(pool, "", "no answer in time")
    if isinstance(error, (ssl.SSLError, ssl.CertificateError)):
        return SSLError(error)
    return ProtocolError(f"the connection broke: {error!r}", error)
