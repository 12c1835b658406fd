"""Signed HTTP requests for single objects: the few that every attachment needs, made cheap.

boto3 spends about 1 ms of CPU on a request before a byte of the body is touched; this way it is a quarter of that.
Credentials, addressing style, endpoint and everything rare stay boto3's (`s3.py`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, SSLError

from backend.transfer.object_store.errors import ObjectStoreError, Unreachable, UnusableSettings
from backend.transfer.object_store.s3_errors import error_for, parse_error
from backend.transfer.object_store.s3_signature import EMPTY_PAYLOAD, Keys, Signature
from config.http.answer import Answer
from config.http.asked import Asked, ask
from config.http.exchange import exchange

_LONGEST_ERROR: Final = 64 * 1024  # bytes of an error document that are read

Body = Callable[[], Iterable[Any]]  # of bytes or memoryview, made anew for each attempt


class S3Connection:
    """A pool of connections to one bucket. Thread-safe."""

    def __init__(
        self,
        bucket_url: str,
        signature: Signature,
        keys: Callable[[], Keys],
        *,
        tls: ssl.SSLContext,
        connections: int,
        connect_timeout: float,
        request_timeout: float,
        keys_are_fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        """`bucket_url` is what comes before a key, with its slash; times are in seconds.

        Raises:
            UnusableSettings: the endpoint or the proxy of the environment is not a URL.
        """
        url = urlsplit(bucket_url)
        self._host = url.netloc
        self._path = url.path
        self._keys = keys
        self._keys_are_fresh = keys_are_fresh
        self._signature = signature
        pool_options = {
            "maxsize": connections,
            "timeout": urllib3.Timeout(connect=connect_timeout, read=request_timeout),
            "socket_options": _socket_options(request_timeout),
            "ssl_context": tls,
        }
        proxy = None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)
        # a proxy for plain http is asked for the whole URL
        is_forwarded = bool(proxy) and url.scheme == "http"
        self._before_path = f"http://{url.netloc}" if is_forwarded else ""
        try:
            proxy_headers = _proxy_headers(proxy) if proxy else {}
            self._proxy_headers = proxy_headers if is_forwarded else {}
            manager = (
                urllib3.ProxyManager(proxy, proxy_headers=proxy_headers, proxy_ssl_context=tls)
                if proxy
                else urllib3.PoolManager()
            )
            self._pool = manager.connection_from_url(bucket_url, pool_options)
        except (ValueError, HTTPError) as error:
            raise UnusableSettings(f"Isen.Storage.Endpoint cannot be used: {error}") from error
        # what has come of TLS within a proxy's TLS no poll(2) tells
        self._can_ask = url.scheme == "http" or self._pool.proxy is None or self._pool.proxy.scheme == "http"
        self._timeout = request_timeout

    def ask(self, key: str, *, may_connect: bool) -> Asked | None:
        """Send a GET whose answer is waited for elsewhere; None: it would have to connect first, or could not be sent.

        `request` says why. Always None with TLS to a proxy and to S3.
        """
        if not self._can_ask or not (may_connect or self._keys_are_fresh()):
            return None  # to renew them may take a while
        path = self._path + quote(key, safe="/-_.~")
        url = self._before_path + path
        try:
            signed = self._signature.signed(
                "GET", path, {"host": self._host}, payload_hash=EMPTY_PAYLOAD, keys=self._keys()
            )
            signed |= self._proxy_headers
            return ask(self._pool, "GET", url, signed, timeout=self._timeout, may_connect=may_connect)
        except (HTTPError, ObjectStoreError):
            return None

    @contextmanager
    def request(
        self,
        method: str,
        operation: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        size: int = 0,
        payload_hash: str = EMPTY_PAYLOAD,
        asked: Asked | None = None,
    ) -> Iterator[Answer]:
        """Send one request and give its successful answer, whose body the caller may read inside the block.

        `size` is the body's, in bytes, and `payload_hash` its SHA-256 in hexadecimal. `asked`: it has been sent.

        Raises:
            ObjectStoreError: there was no answer, it was not success, or it broke while being read.
        """
        path = self._path + quote(key, safe="/-_.~")
        to_sign = {"host": self._host, **(headers or {})}

        def send() -> Answer:
            signed = self._signature.signed(method, path, to_sign, payload_hash=payload_hash, keys=self._keys())
            signed |= self._proxy_headers
            if body is None:
                return exchange(self._pool, method, self._before_path + path, signed, timeout=self._timeout)
            signed["content-length"] = str(size)
            return exchange(self._pool, method, self._before_path + path, signed, body(), timeout=self._timeout)

        with _translated(operation, key):
            try:
                response = asked.answer() if asked else send()
            except ProtocolError:
                response = send()  # the server may have closed a kept-alive connection at that very moment
            with response:
                if response.status >= 300:
                    raise _error(response, operation, key)
                yield response


def _error(response: Answer, operation: str, key: str) -> ObjectStoreError:
    text = response.read(_LONGEST_ERROR)
    code, message = parse_error(text)
    body_is_s3 = bool(code) or not text
    return error_for(
        response.status, code, message, operation=operation, key=key, headers=response.headers, body_is_s3=body_is_s3
    )


@contextmanager
def _translated(operation: str, key: str) -> Iterator[None]:
    try:
        yield
    except SSLError as error:
        raise Unreachable(
            f"{operation} {key}: {error}; if no public authority signed the server's certificate, set "
            "HttpsCACertificates"
        ) from error
    except HTTPError as error:
        raise Unreachable(f"{operation} {key}: {error}") from error


def _proxy_headers(proxy: str) -> dict[str, str]:
    credentials = urllib3.util.parse_url(proxy).auth
    return dict(urllib3.make_headers(proxy_basic_auth=unquote(credentials))) if credentials else {}


def _socket_options(request_timeout: float) -> list[tuple[int, int, int]]:
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(request_timeout * 1000)),  # for a peer that vanished
    ]
