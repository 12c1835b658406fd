"""urllib3's connections: lent, made ready, given back or ended; and its errors for what breaks."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from urllib3.exceptions import ConnectTimeoutError, HTTPError, ProtocolError, ReadTimeoutError, SSLError

if TYPE_CHECKING:
    import urllib3

_ONCE_MORE: Final = 0.1  # seconds between attempts to break off


class Pace:
    """How long a peer may take: its patience, and a second for each so many bytes that come or go.

    One that moves a byte now and then keeps each wait short, and does not hold us for as long as it likes.
    """

    def __init__(self, pool: urllib3.HTTPConnectionPool, patience: float, slowest: int) -> None:
        """`patience` in seconds, `slowest` in bytes per second."""
        self._pool = pool
        self._patience = patience
        self._slowest = slowest

    def require(self, begun: float, count: int) -> None:
        """So many bytes have come or gone since then.

        Raises:
            ReadTimeoutError: too few.
        """
        self._patience += count / self._slowest - (time.monotonic() - begun)
        if self._patience < 0:
            raise ReadTimeoutError(self._pool, "", "the peer is too slow")


@contextmanager
def lent(pool: urllib3.HTTPConnectionPool, connection: Any) -> Iterator[None]:
    """Close the connection if the block fails, with an error of urllib3's."""
    try:
        yield
    except BaseException as error:
        end(pool, connection)
        if isinstance(error, (OSError, ssl.CertificateError, HTTPException)):
            raise translated(pool, error) from error
        raise


def end(pool: urllib3.HTTPConnectionPool, connection: Any) -> None:
    """Close the connection; its place in the pool is free again."""
    connection.close()
    pool._put_conn(None)  # noqa: SLF001 - urllib3 has no other way to give it back


def make_ready(pool: urllib3.HTTPConnectionPool, connection: Any, timeout: float) -> bool:
    """Connect it, if it is not; whether it was new."""
    is_new: bool = connection.is_closed
    if is_new:
        _connect(pool, connection)
    if is_new or connection.sock.gettimeout() is not None:  # urllib3 itself has used it
        _limit(connection, timeout)
    return is_new


def _connect(pool: urllib3.HTTPConnectionPool, connection: Any) -> None:
    connection.timeout = pool.timeout.connect_timeout
    proxy = pool.proxy
    # connections to a proxy's own host and port are for requests that it forwards, also if it speaks TLS
    if proxy is not None and pool.scheme == "https" and (pool.host, pool.port) != (proxy.host, proxy.port):
        with _ended_after(2 * connection.timeout, connection):
            pool._prepare_proxy(connection)  # noqa: SLF001 - asks the proxy for a tunnel
    else:
        connection.connect()


@contextmanager
def _ended_after(seconds: float, connection: Any) -> Iterator[None]:
    """Break off what takes longer, although each wait of it may be short.

    For a tunnel: neither http.client nor TLS within TLS know how long all of it takes.
    """
    is_done, is_late = threading.Event(), threading.Event()

    def watch() -> None:
        if is_done.wait(seconds):
            return
        is_late.set()
        while not is_done.wait(_ONCE_MORE):
            with suppress(OSError, TypeError):  # there is none, or TLS is taking it over
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    threading.Thread(target=watch, name="tunnel", daemon=True).start()
    try:
        yield
    except Exception as error:
        if is_late.is_set():
            raise ConnectTimeoutError("no tunnel through the proxy in time") from error
        raise
    finally:
        is_done.set()


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


def translated(pool: urllib3.HTTPConnectionPool, error: Exception) -> HTTPError:
    """The exception of urllib3's that says what has broken."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, (TimeoutError, BlockingIOError)):  # the latter is the system's time-out
        return ReadTimeoutError(pool, "", "no answer in time")
    if isinstance(error, (ssl.SSLError, ssl.CertificateError)):
        return SSLError(error)
    return ProtocolError(f"the connection broke: {error!r}", error)
