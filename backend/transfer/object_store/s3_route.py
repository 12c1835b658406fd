"""How requests reach S3: the connections to one server, directly or through the proxy of the environment.

Everything that is sent to S3 goes this way, what boto3 asks too (`s3_client.py`): botocore's own sessions do not verify
the certificate of a proxy that forwards plain requests, and wait for ever for an answer that trickles.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from backend.transfer.object_store.errors import UnusableSettings
from config.http.answer import Answer
from config.http.asked import Asked, ask
from config.http.exchange import exchange


@dataclass(frozen=True)
class RouteOptions:
    """What all routes of a bucket have in common; times are in seconds."""

    tls: ssl.SSLContext  # of S3 and of a proxy
    connections: int  # kept
    connect_timeout: float
    request_timeout: float


class Route:
    """A pool of connections to one server. Thread-safe."""

    def __init__(self, url: str, options: RouteOptions) -> None:
        """To the server of `url`, whose path does not matter; no request is sent yet.

        Raises:
            UnusableSettings: the endpoint or the proxy of the environment is not a URL.
        """
        server = urlsplit(url)
        self._timeout = options.request_timeout
        proxy = _proxy_for(server)
        # a proxy for plain http is asked for the whole URL
        is_forwarded = bool(proxy) and server.scheme == "http"
        self._before_path = f"http://{server.netloc}" if is_forwarded else ""
        try:
            proxy_headers = _proxy_headers(proxy) if proxy else {}
            self._proxy_headers = proxy_headers if is_forwarded else {}
            manager = (
                urllib3.ProxyManager(proxy, proxy_headers=proxy_headers, proxy_ssl_context=options.tls)
                if proxy
                else urllib3.PoolManager()
            )
            self._pool = manager.connection_from_url(url, _pool_options(options))
        except (ValueError, HTTPError) as error:
            raise UnusableSettings(f"Isen.Storage.Endpoint cannot be used: {error}") from error
        # what has come of TLS within a proxy's TLS no poll(2) tells
        self.can_ask = server.scheme == "http" or self._pool.proxy is None or self._pool.proxy.scheme == "http"

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Iterable[Any] = (),
        *,
        patience: float | None = None,
    ) -> Answer:
        """As `config.http.exchange`; `path` may have a query, and `headers` are signed."""
        target, all_headers = self._before_path + path, {**headers, **self._proxy_headers}
        return exchange(self._pool, method, target, all_headers, body, timeout=self._timeout, patience=patience)

    def ask(self, path: str, headers: Mapping[str, str], *, may_connect: bool) -> Asked | None:
        """As `config.http.asked.ask`, a GET; only if `can_ask`."""
        target, all_headers = self._before_path + path, {**headers, **self._proxy_headers}
        return ask(self._pool, "GET", target, all_headers, timeout=self._timeout, may_connect=may_connect)


def _pool_options(options: RouteOptions) -> dict[str, Any]:
    return {
        "maxsize": options.connections,
        "timeout": urllib3.Timeout(connect=options.connect_timeout, read=options.request_timeout),
        "socket_options": _socket_options(options.request_timeout),
        "ssl_context": options.tls,
    }


def _proxy_for(server: SplitResult) -> str | None:
    return None if proxy_bypass(server.netloc) else getproxies().get(server.scheme)


def _proxy_headers(proxy: str) -> dict[str, str]:
    credentials = urllib3.util.parse_url(proxy).auth
    return dict(urllib3.make_headers(proxy_basic_auth=unquote(credentials))) if credentials else {}


def _socket_options(request_timeout: float) -> list[tuple[int, int, int]]:
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(request_timeout * 1000)),  # for a peer that vanished
    ]
