"""Orthanc's REST API for the operators' tools: kept-alive connections, and not more requests than Orthanc can spare."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from config.https import verifying_context

if TYPE_CHECKING:
    from pathlib import Path

_CONNECT_TIMEOUT: Final = 5.0  # seconds
_READ_TIMEOUT: Final = 120.0  # seconds without a byte; listing a large index takes a while
_RETRIES: Final = 2


class OrthancUnavailable(Exception):
    """Orthanc cannot be asked; the message says why and what to do."""


@dataclass(frozen=True)
class Address:
    """Where Orthanc answers, and as whom."""

    url: str  # may hold `user:password@`
    user: str = ""
    password: str = field(default="", repr=False)
    ca_certificates: Path | None = None
    token: str = field(default="", repr=False)  # in place of user and password, for a child of Orthanc


class Throttle:
    """Lets through at most so many a second. Thread-safe."""

    def __init__(self, per_second: float) -> None:
        """0 = as many as come."""
        self._interval = 1.0 / per_second if per_second > 0 else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Wait for this one's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
        if turn > now:
            time.sleep(turn - now)


class OrthancRest:
    """A small client. Thread-safe."""

    def __init__(self, address: Address, *, connections: int, per_second: float = 0.0) -> None:
        """At most `per_second` requests a second; 0 = no limit.

        Raises:
            OrthancUnavailable: the address is not a URL.
        """
        parts = urlsplit(address.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OrthancUnavailable("the address of Orthanc must look like http://127.0.0.1:8042")
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._throttle = Throttle(per_second)
        user, password = address.user, address.password
        if parts.username:
            user, password = unquote(parts.username), unquote(parts.password or "")
        self._headers = urllib3.make_headers(basic_auth=f"{user}:{password}") if user else {}
        if address.token:
            self._headers = {"Authorization": address.token}
        options: dict[str, Any] = {}
        if parts.scheme == "https":
            options["ssl_context"] = verifying_context(address.ca_certificates)
            options["assert_hostname"] = False  # it is this machine; the certificate names the hospital's host
        self._pool = urllib3.PoolManager(
            maxsize=connections,
            block=True,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=_READ_TIMEOUT),
            retries=urllib3.Retry(_RETRIES, redirect=0, backoff_factor=0.2, raise_on_status=False),
            **options,
        )

    def get(self, path: str) -> Any | None:
        """The JSON of a GET, or None if Orthanc has no such resource, or not any more.

        Raises:
            OrthancUnavailable: it did not answer, or refused.
        """
        return self._request("GET", path, None)

    def post(self, path: str, body: bytes | BinaryIO) -> Any | None:
        """The JSON of a POST, or None if Orthanc has no such resource. A file is sent from where it stands.

        Raises:
            OrthancUnavailable: it did not answer, or refused.
        """
        return self._request("POST", path, body)

    def delete(self, path: str) -> None:
        """Delete a resource; it need not exist any more.

        Raises:
            OrthancUnavailable: it did not answer, or refused.
        """
        self._request("DELETE", path, None)

    def _request(self, method: str, path: str, body: bytes | BinaryIO | None) -> Any | None:
        self._throttle.wait()
        try:
            answer = self._pool.request(method, self._url + path, body=body, headers=self._headers)
        except HTTPError as error:
            raise OrthancUnavailable(
                f"{self._url} does not answer ({type(error).__name__}); is Orthanc running, and this its address?"
            ) from None
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise OrthancUnavailable(
                f"{self._url} answered {answer.status}; put the credentials into the variable ISEN_URL "
                "(http://user:password@host:port)"
            )
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise OrthancRefused(
                f"{method} {path} was answered {answer.status}",
                is_of_server=answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR,
            )
        try:
            return json.loads(answer.data)
        except ValueError:
            raise OrthancUnavailable(f"{method} {path}: the answer is not JSON; is this Orthanc?") from None


class OrthancRefused(OrthancUnavailable):
    """Orthanc answered this one request with an error; `is_of_server`: a 5xx, time may mend it."""

    def __init__(self, message: str, *, is_of_server: bool = False) -> None:
        super().__init__(message)
        self.is_of_server = is_of_server
