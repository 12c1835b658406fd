"""Files that the transfer process hands over as soon as they are at hand, to who has announced that it will send them.

At the other end are `backend.transfer.server` and `backend.transfer.deliveries`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from scp.handed_over import taken

log = logging.getLogger(__name__)

TIMEOUT: Final = 60.0  # seconds in which the transfer process takes or gives one message
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PATIENCE: Final = 1.0  # seconds without a word; then what is announced is asked for by itself
_LONGEST_DELIVERY: Final = 16 * 1024  # bytes; fewer than 100 for each file that one message announces
_MOST_FILES: Final = 253  # in one message: the kernel's limit


class Deliveries:
    """Files that are handed over as soon as they are at hand, without being asked for one by one.

    One thread announces what will be read, another takes it. There is one word on everything announced, sooner or
    later; nobody waits for it while the transfer process says nothing, as it may have others to serve first. Once that
    is gone, nothing is expected but what is announced to the next one.
    """

    def __init__(self, path: Path, extension: str, places: threading.Semaphore) -> None:
        """Nothing is connected yet; a connection takes one of `places`."""
        self._path = path
        self._extension = extension
        self._places = places
        self._connection: socket.socket | None = None
        self._is_over = False
        self._lock = threading.Lock()
        self._receiving = threading.Lock()  # held by the thread that reads from the connection
        self._heard = 0.0  # monotonic time of the last word, or from when on one is due
        self._due: set[str] = set()  # announced names on which there was no word yet
        self._come: dict[str, tuple[int, float]] = {}  # descriptor, and when its bytes were verified

    def announce(self, attachments: Sequence[tuple[str, int]]) -> None:
        """Say which attachments, by UUID and size, will be taken soon, in this order. Never fails."""
        wanted = [(uuid + self._extension, size) for uuid, size in attachments if UUID.fullmatch(uuid)]
        if not wanted:
            return
        try:
            connection = self._connect() if self._connection is None or self._is_over else self._connection
            if not self._due:
                self._heard = time.monotonic()
            self._due.update(name for name, _ in wanted)
            connection.send(encoded({"Operation": "deliver", "Attachments": wanted}))
        except OSError as error:
            self._end(error)

    def expects(self, uuid: str) -> bool:
        """Whether it may be worth while to `take` it."""
        name = uuid + self._extension
        return name in self._due or name in self._come

    def forget(self, uuid: str) -> None:
        """It will not be taken; nor may it stay in the socket, if nothing is ever taken."""
        name = uuid + self._extension
        with self._lock:
            self._due.discard(name)
            come = self._come.pop(name, None)
        if come is not None:
            os.close(come[0])
        if self._receiving.acquire(blocking=False):  # else somebody is at it
            try:
                self._receive_all()
            finally:
                self._receiving.release()

    def take(self, uuid: str, size: int) -> BinaryIO | None:
        """The verified file of `size` bytes, at its start, once it has come; None: ask for it by itself. Close it."""
        name = uuid + self._extension
        with self._receiving:
            self._receive_all(name)
        with self._lock:
            self._due.discard(name)
            come = self._come.pop(name, None)
        return None if come is None else taken(uuid, come[0], size, come[1])

    def close(self) -> None:
        """Nothing more is wanted; no thread may be in `take`."""
        self._disconnect()
        for descriptor, _ in self._come.values():
            os.close(descriptor)
        self._come.clear()

    def _connect(self) -> socket.socket:
        """The first time, or because the transfer process has been started again."""
        with self._receiving:
            self._disconnect()
            if not self._places.acquire(blocking=False):
                raise ConnectionError("as many retrieve requests have a connection as may")
            try:
                self._connection = connected(self._path)
            except BaseException:
                self._places.release()
                raise
            self._is_over = False
            return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._places.release()

    def _receive_all(self, wanted: str = "") -> None:
        """Receive what has come, and wait for the word on `wanted`, if it is due."""
        try:
            while not self._is_over and self._has_come(wait=wanted in self._due):
                self._receive()
        except OSError as error:
            self._end(error)

    def _has_come(self, *, wait: bool) -> bool:
        """Whether there is a message, or one comes as long as it is worth while to `wait`."""
        if self._connection is None:
            return False
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        patience = self._heard + _PATIENCE - time.monotonic() if wait else 0
        return bool(poll.poll(max(0, patience) * 1000))

    def _receive(self) -> None:
        """Receive one message, which has come."""
        assert self._connection is not None  # noqa: S101 - for the type checker: something was announced
        packet, descriptors, _, _ = socket.recv_fds(self._connection, _LONGEST_DELIVERY, _MOST_FILES)
        try:
            message = json.loads(packet)  # an empty one: it has closed the connection
            missing = [str(name) for name in message["Missing"]]
            files = [
                (str(name), descriptor, float(verified_at))
                for (name, verified_at), descriptor in zip(message["Files"], descriptors, strict=True)
            ]
        except (ValueError, KeyError, TypeError):
            for descriptor in descriptors:
                os.close(descriptor)
            raise ConnectionError("the transfer process has closed the connection") from None
        self._heard = time.monotonic()
        unwanted = []
        with self._lock:
            for name, descriptor, verified_at in files:
                if name in self._due:
                    self._come[name] = descriptor, verified_at
                else:
                    unwanted.append(descriptor)
                self._due.discard(name)
            self._due.difference_update(missing)
        for descriptor in unwanted:
            os.close(descriptor)

    def _end(self, error: OSError) -> None:
        log.info("deliveries_ended reason=%s", error)
        self._is_over = True
        self._due.clear()


def encoded(message: dict[str, Any]) -> bytes:
    """A message to the transfer process."""
    return json.dumps(message, separators=(",", ":")).encode()


def connected(path: Path) -> socket.socket:
    """A connection to the socket at `path`, which may be longer than an address can be."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(TIMEOUT)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection
