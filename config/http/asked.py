"""A request whose answer is waited for with poll(2), together with others: one thread may have many under way."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from urllib3.exceptions import HTTPError

from config.http.answer import HEAD, LONGEST_HEAD, Answer
from config.http.connection import end, lent, make_ready, translated
from config.http.request import encoded_head, send

if TYPE_CHECKING:
    import urllib3

LARGEST_AWAITED: Final = 1024 * 1024  # bytes that the kernel may hold of a body that nobody reads yet


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
    head = encoded_head(method, target, headers)
    connection = pool._get_conn()  # noqa: SLF001 - urllib3 has no other way to lend a connection
    if connection.is_closed and not may_connect:
        pool._put_conn(connection)  # noqa: SLF001 - as above
        return None
    with lent(pool, connection):
        if make_ready(pool, connection, timeout):
            _open_window(connection)
        broken = send(pool, connection, head, (), timeout)
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
                self._error = translated(self._pool, error)
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
            end(self._pool, self._connection)
            self._connection = None

    def _begun(self) -> Answer:
        connection, self._connection = self._connection, None
        with lent(self._pool, connection):
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
            while b"\r\n\r\n" not in self._received and len(self._received) <= LONGEST_HEAD:
                piece = sock.recv(HEAD, socket.MSG_DONTWAIT if timeout is None else 0)
                if not piece:
                    break
                self._received += piece
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        finally:
            if timeout is not None:
                sock.settimeout(timeout)
        return True


def _open_window(connection: Any) -> None:
    """Have the kernel make room for a whole answer before it comes; else poll(2) ends when a small window is full."""
    for count in (LARGEST_AWAITED, 1):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
