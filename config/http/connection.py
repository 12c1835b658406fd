"""urllib3's connections: lent, made ready, given back or ended; and its errors for what breaks."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, SSLError

if TYPE_CHECKING:
    import urllib3


@contextmanager
def lent(pool: urllib3.HTTPConnectionPool, connection: Any) -> Iterator[None]:
    """Close the connection if the block fails, with an error of urllib3's."""
    try:
        yield
    except BaseException as error:
        end(pool, connection)
        if isinstance(error, (OSError, ssl.CertificateError)):
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
        pool._prepare_proxy(connection)  # noqa: SLF001 - asks the proxy for a tunnel
    else:
        connection.connect()


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
