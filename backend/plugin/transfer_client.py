"""The plugin's connections to the transfer process: one request, one reply, any number of threads.

The listening socket outlives the transfer process, so a request made while that restarts waits in the backlog and is
answered by the new one. Waiting happens inside system calls: the GIL is free.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from backend import messages

_WAKE: Final = b'{"Operation":"wake"}'
_PAUSE: Final = 0.05  # seconds between two tries to reach the transfer process
_WAKE_INTERVAL: Final = 0.02  # seconds; shorter than the pause between two looks of `transfer.spool_watch`


class TransferError(Exception):
    """The transfer process could not do it.

    `kind` is one word for log lines and metrics: missing, denied, unreachable, throttled, clock, credentials, bucket,
    archived, corrupted, wrong-key, unencrypted, timeout or local. Only `missing` says that S3 has no such object.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class TransferClient:
    """Asks the transfer process. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """`path` is that of the listening socket."""
        self._path = path
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._wakes: socket.socket | None = None
        self._waking = threading.Lock()
        self._woken = float("-inf")

    def fetch(self, name: str, timeout: float) -> int:
        """A read-only descriptor of the whole, verified object; the caller closes it.

        Raises:
            TransferError: it could not be fetched within `timeout` seconds.
        """
        reply, descriptors = self._ask({"Operation": "fetch", "Name": name}, timeout)
        if len(descriptors) != 1:
            raise TransferError("local", f"the transfer process sent no file: {reply}")
        return descriptors[0]

    def fetch_range(self, name: str, start: int, end: int, timeout: float) -> int:
        """A read-only descriptor of the object's bytes `start` to `end`, exclusive; they are not verified.

        Raises:
            TransferError: they could not be fetched within `timeout` seconds.
        """
        reply, descriptors = self._ask({"Operation": "fetch-range", "Name": name, "Start": start, "End": end}, timeout)
        if len(descriptors) != 1:
            raise TransferError("local", f"the transfer process sent no file: {reply}")
        return descriptors[0]

    def upload(self, name: str, timeout: float) -> None:
        """Have the staged attachment of this name uploaded; S3 has confirmed it when this returns.

        Raises:
            TransferError: not confirmed within `timeout` seconds; it may still arrive in the bucket later.
        """
        self._ask({"Operation": "upload", "Name": name, "Timeout": timeout}, timeout)

    def confirm(self, attachments: Sequence[dict[str, Any]], timeout: float) -> list[str]:
        """The state of each attachment in the object store: see `backend.transfer.confirmer`.

        Raises:
            TransferError: no answer within `timeout` seconds.
        """
        reply, _ = self._ask({"Operation": "confirm", "Attachments": attachments}, timeout)
        return list(reply["States"])

    def prefetch(self, action: str, resources: Sequence[str], timeout: float) -> dict[str, Any]:
        """Have resources fetched into the cache ("add"), or nothing more ("cancel"), or only ask ("state").

        The answer is that of `backend.transfer.prefetch_requests`.

        Raises:
            TransferError: no answer within `timeout` seconds.
        """
        reply, _ = self._ask({"Operation": "prefetch", "Action": action, "Resources": resources}, timeout)
        return dict(reply["State"])

    def wake(self) -> None:
        """Say that the spool has something new. Only a hint: never waits and never fails.

        It is said once in a while and holds for what comes until the next: the transfer process looks twice.
        """
        now = time.monotonic()
        if now - self._woken > _WAKE_INTERVAL:
            self._woken = now
            self._hint(_WAKE)

    def read(self, name: str) -> None:
        """Say that a cached attachment has been read for the first time in a while. Only a hint."""
        self._hint(b'{"Operation":"read","Name":"%b"}' % name.encode())

    def _hint(self, message: bytes) -> None:
        # On a connection of its own and without JSON: it happens with every image, and under the GIL
        with self._waking:
            try:
                if self._wakes is None:
                    self._wakes = messages.connect(self._path)
                self._wakes.send(message, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass  # it has enough hints to read
            except OSError:  # it has ended; the next one looks at its start
                if self._wakes is not None:
                    self._wakes.close()
                self._wakes = None

    def _ask(self, request: dict[str, Any], timeout: float) -> tuple[dict[str, Any], list[int]]:
        deadline = time.monotonic() + timeout
        fresh = False
        while True:
            try:
                reply, descriptors = self._exchange(request, deadline, fresh=fresh)
            except TimeoutError:
                raise TransferError("timeout", f"no answer of the transfer process within {timeout:g} s") from None
            except OSError as error:
                # it ended or was killed; its successor takes the same socket, and every request may be repeated
                if time.monotonic() > deadline:
                    raise TransferError("local", f"the transfer process does not answer: {error}") from None
                if fresh:  # not the end of a connection that was kept: too many open files, most likely
                    time.sleep(_PAUSE)
                fresh = True
                continue
            if reply.get("Result") == "ok":
                return reply, descriptors
            raise TransferError(str(reply.get("Error", "local")), str(reply.get("Message", "no reason given")))

    def _exchange(self, request: dict[str, Any], deadline: float, *, fresh: bool) -> tuple[dict[str, Any], list[int]]:
        connection = self._connection(fresh=fresh)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            messages.send(connection, request)
            answer = messages.receive(connection)
        except BaseException:
            connection.close()  # a late answer must not meet the next request
            raise
        self._keep(connection)
        return answer

    def _connection(self, *, fresh: bool) -> socket.socket:
        with self._lock:
            if fresh:
                while self._idle:
                    self._idle.pop().close()
            elif self._idle:
                return self._idle.pop()
        return messages.connect(self._path)

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._idle.append(connection)
