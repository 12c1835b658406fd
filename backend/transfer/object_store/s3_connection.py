"""Signed HTTP requests for single objects: the few that every attachment needs, made cheap.

boto3 spends about 1 ms of CPU on a request before a byte of the body is touched; this way it is a quarter of that.
Credentials, addressing style, endpoint and everything rare stay boto3's (`s3.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

from urllib3.exceptions import HTTPError, ProtocolError, SSLError

from backend.transfer.object_store.errors import ObjectStoreError, Unreachable
from backend.transfer.object_store.s3_errors import error_for, parse_error
from backend.transfer.object_store.s3_route import Route
from backend.transfer.object_store.s3_signature import EMPTY_PAYLOAD, Keys, Signature
from config.http.answer import Answer
from config.http.asked import Asked

_LONGEST_ERROR: Final = 64 * 1024  # bytes of an error document that are read

Body = Callable[[], Iterable[Any]]  # of bytes or memoryview, made anew for each attempt


class S3Connection:
    """Requests for the objects of one bucket. Thread-safe."""

    def __init__(
        self,
        bucket_url: str,
        route: Route,
        signature: Signature,
        keys: Callable[[], Keys],
        *,
        keys_are_fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        """`bucket_url` is what comes before a key, with its slash."""
        url = urlsplit(bucket_url)
        self._host = url.netloc
        self._path = url.path
        self._route = route
        self._keys = keys
        self._keys_are_fresh = keys_are_fresh
        self._signature = signature

    def ask(self, key: str, *, may_connect: bool) -> Asked | None:
        """Send a GET whose answer is waited for elsewhere; None: it would have to connect first, or could not be sent.

        `request` says why. Always None with TLS to a proxy and to S3.
        """
        if not self._route.can_ask or not (may_connect or self._keys_are_fresh()):
            return None  # to renew them may take a while
        path = self._path + quote(key, safe="/-_.~")
        try:
            signed = self._signature.signed(
                "GET", path, {"host": self._host}, payload_hash=EMPTY_PAYLOAD, keys=self._keys()
            )
            return self._route.ask(path, signed, may_connect=may_connect)
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
            if body is None:
                return self._route.exchange(method, path, signed)
            signed["content-length"] = str(size)
            return self._route.exchange(method, path, signed, body())

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
    except HTTPError as error:
        raise Unreachable(f"{operation} {key}: {explained(error)}") from error


def explained(error: HTTPError) -> str:
    """What broke, and what may mend it."""
    if isinstance(error, SSLError):
        return f"{error}; if no public authority signed the server's certificate, set HttpsCACertificates"
    return str(error)
