"""The Orthancs that a worker may ask; they are one archive, and the first that can be reached answers.

A worker beside Orthanc has one. A front end has several, over one index and one bucket: each worker begins their list
at another place, so that every Orthanc has work, and stays with its first, because that one can read what it has just
been given before the others can. If it cannot be reached the next one is asked, until a thread finds it back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError

from config.http.answer import Answer
from config.http.exchange import exchange
from config.https import verifying_context
from config.settings import OrthancServer, OrthancSettings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 5.0  # seconds
READ_TIMEOUT: Final = 120  # seconds without a byte; a store waits for S3 with Durability ObjectStore
BLOCK_SIZE: Final = 1024 * 1024  # bytes of a large file held in memory
_ATTEMPTS: Final = 3  # at one server: a kept-alive connection may turn out to be closed
_TRIAL_INTERVAL: Final = 2.0  # seconds between two looks at a server that is away

# the whole, or a call that yields it, made for each attempt; for this one the headers say its Content-Length
Body: TypeAlias = bytes | Callable[[], Iterable[bytes]]

_NOT_ANSWERED: Final = (NewConnectionError, ConnectTimeoutError, ProtocolError)


class OrthancServers:
    """Sends requests, each of which may be repeated. Thread-safe."""

    def __init__(
        self,
        settings: OrthancSettings,
        token: str,
        first: int,
        maximum_connections: int,
        read_timeout: int = READ_TIMEOUT,
    ) -> None:
        """`first` is the place in the list to begin with, past its end at the beginning again; `token` is for the
        Orthanc beside us, that of `settings.url`. `maximum_connections` counts for each server. `read_timeout`: seconds
        without a byte, and for a connection to become free.
        """
        if settings.servers:
            start = first % len(settings.servers)
            order = [*settings.servers[start:], *settings.servers[:start]]
            self._servers = [_Server(server, settings, maximum_connections, read_timeout) for server in order]
        else:
            beside = OrthancServer(url=settings.url)
            self._servers = [_Server(beside, settings, maximum_connections, read_timeout, token)]
        self._away: list[_Server] = []
        self._lock = threading.Lock()

    def urlopen(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> Answer:
        """The head of the answer; the body is still to be read. `body` is called for each attempt.

        Raises:
            urllib3.exceptions.HTTPError: of the last server that was asked.
        """
        *others, last = self._in_order()
        for server in others:
            try:
                return server.urlopen(method, path, body, headers)
            except _NOT_ANSWERED as error:
                self._is_away(server, error)
        return last.urlopen(method, path, body, headers)

    def _in_order(self) -> list[_Server]:
        """Those that are away last: they are all there is when the others are as well."""
        with self._lock:
            return sorted(self._servers, key=self._away.__contains__)

    def _is_away(self, server: _Server, error: HTTPError) -> None:
        with self._lock:
            if server in self._away:
                return
            self._away.append(server)
            log.warning("orthanc_away server=%s error=%s", server.name, type(error).__name__)
            if len(self._away) == 1:
                threading.Thread(target=self._look, name="orthanc-away", daemon=True).start()

    def _look(self) -> None:
        """Until none is away."""
        pause = threading.Event()
        while self._away:
            pause.wait(_TRIAL_INTERVAL)
            back = [server for server in self._away if server.answers()]
            with self._lock:
                for server in back:
                    self._away.remove(server)
                    log.info("orthanc_back server=%s", server.name)
                if not self._away:
                    return


class _Server:
    """One Orthanc."""

    def __init__(
        self,
        server: OrthancServer,
        settings: OrthancSettings,
        maximum_connections: int,
        read_timeout: int,
        token: str = "",
    ) -> None:
        url = urllib3.util.parse_url(server.url)
        self.name = url.netloc
        self.pool = _pool(url, settings, maximum_connections, read_timeout)
        self._read_timeout = read_timeout
        self._path = (url.path or "").rstrip("/")
        self._headers = {"Host": url.netloc or ""}
        if server.password is not None:
            credentials = f"{server.username}:{server.password.get_secret_value()}"
            self._headers |= urllib3.make_headers(basic_auth=credentials)
        elif token:
            self._headers["Authorization"] = token

    def urlopen(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> Answer:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._attempt(method, path, body, headers)
            except ProtocolError:
                continue
        return self._attempt(method, path, body, headers)

    def answers(self) -> bool:
        """Whether it can be reached, whatever it says."""
        try:
            response = self.pool.request(
                "GET", self._path + "/system", headers=self._headers, retries=False, timeout=CONNECT_TIMEOUT
            )
        except HTTPError:
            return False
        return response.status < 500

    def _attempt(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> Answer:
        all_headers = {**self._headers, **headers}
        if isinstance(body, bytes):
            all_headers["Content-Length"] = str(len(body))
        return exchange(
            self.pool,
            method,
            self._path + path,
            all_headers,
            (body or b"",) if body is None or isinstance(body, bytes) else body(),
            timeout=self._read_timeout,
            pool_timeout=self._read_timeout,
        )


def _pool(
    url: urllib3.util.Url, settings: OrthancSettings, maximum_connections: int, read_timeout: int
) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=read_timeout)
    if url.scheme == "https":
        return urllib3.HTTPSConnectionPool(
            url.host or "127.0.0.1",
            url.port,
            timeout=timeout,
            maxsize=maximum_connections,
            block=True,
            ssl_context=verifying_context(settings.ca_certificates),
            # beside Orthanc it is this machine, and the certificate names the hospital's host, not 127.0.0.1
            assert_hostname=None if settings.servers else False,
        )
    return urllib3.HTTPConnectionPool(
        url.host or "127.0.0.1",
        url.port,
        timeout=timeout,
        maxsize=maximum_connections,
        block=True,
    )
