"""DICOM files straight from spool, cache or S3: the transfer process hands over a descriptor, no byte goes over HTTP.

Orthanc's index names the attachment of each instance, so its REST API need not carry the file: per 512 KB image that
saves Orthanc, its plugin and this worker several copies. Whatever is unusual is left to Orthanc: attachments it has
compressed, conversions, and every failure, which it reports with its reason. At the other end is
`backend.transfer.server`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from config.folder_format import DIGEST_ATTRIBUTE
from config.settings import StorageStructure

log = logging.getLogger(__name__)

MEMORY_LIMIT: Final = 16 * 1024 * 1024  # bytes of a file held in memory; a larger one is sent from its descriptor
_TIMEOUT: Final = 60.0  # seconds for one file
_PATIENCE: Final = 1.0  # seconds without a word; then what is announced is asked for by itself
_TRUSTED: Final = 2.0  # seconds in which what was verified on its way into the page cache needs not be verified again
_MAXIMUM_CONNECTIONS: Final = 16  # of one worker; each has a thread in the transfer process
_MAXIMUM_DELIVERIES: Final = 16  # retrieve requests of one worker that have one more each, as long as they last
_LONGEST_REPLY: Final = 1024  # bytes; why something failed may be cut off, nobody reads it
_LONGEST_DELIVERY: Final = 16 * 1024  # bytes; fewer than 100 for each file that one message announces
_MOST_FILES: Final = 253  # in one message: the kernel's limit
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class AttachmentFiles:
    """Asks for the DICOM files of attachments. Thread-safe."""

    def __init__(self, directory: Path, structure: StorageStructure) -> None:
        """`directory` is where the transfer process listens. Nothing is connected yet."""
        self._path = directory / "transfer.sock"
        self._extension = "" if structure is StorageStructure.LEGACY else ".dcm"
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._count = 0
        self._places = threading.Semaphore(_MAXIMUM_DELIVERIES)

    def deliveries(self) -> Deliveries:
        """For one retrieve request. Close them."""
        return Deliveries(self._path, self._extension, self._places)

    def open(self, uuid: str, size: int) -> BinaryIO | None:
        """The verified DICOM file of `size` bytes, at its start, once it has come; None: ask Orthanc. Close it."""
        if not _UUID.fullmatch(uuid):
            return None
        try:
            reply, descriptors = self._asked({"Operation": "fetch", "Name": uuid + self._extension, "For": "send"})
        except OSError as error:
            log.info("attachment_not_handed_over uuid=%s reason=%s", uuid, error)
            return None
        if not descriptors:
            return None  # the reply says why, but Orthanc's own attempt will say it to the operator
        return _taken(descriptors[0], size, _verified_at(reply))

    def _asked(self, message: dict[str, Any]) -> tuple[bytes, list[int]]:
        """The answer to `message`, and the descriptor that came with it."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            if connection is None:
                if self._count == _MAXIMUM_CONNECTIONS:
                    raise ConnectionError("all connections are in use")
                self._count += 1
        try:
            if connection is None:
                connection = _connected(self._path)
            connection.send(_encoded(message))
            reply, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_REPLY, 1)
            if not reply:
                raise ConnectionError("the transfer process has closed the connection")
        except BaseException:
            with self._lock:
                self._count -= 1
            if connection is not None:
                connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        return reply, descriptors


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
        wanted = [(uuid + self._extension, size) for uuid, size in attachments if _UUID.fullmatch(uuid)]
        if not wanted:
            return
        try:
            connection = self._connect() if self._connection is None or self._is_over else self._connection
            if not self._due:
                self._heard = time.monotonic()
            self._due.update(name for name, _ in wanted)
            connection.send(_encoded({"Operation": "deliver", "Attachments": wanted}))
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
        return None if come is None else _taken(come[0], size, come[1])

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
                self._connection = _connected(self._path)
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


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _verified_at(reply: bytes) -> float:
    try:
        return float(json.loads(reply)["VerifiedAt"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _taken(descriptor: int, size: int, verified_at: float) -> BinaryIO | None:
    """The file, whose bytes were verified at this monotonic time, or 0; None: ask Orthanc. Closes the descriptor."""
    try:
        is_just_verified = verified_at and time.monotonic() - verified_at < _TRUSTED
        content = _cached_content(descriptor, size) if is_just_verified else None
        return content or _opened(descriptor, size)
    except OSError as error:
        log.warning("attachment_unreadable reason=%s", error)
        return None
    finally:
        os.close(descriptor)


def _cached_content(descriptor: int, size: int) -> BinaryIO | None:
    """The file of `size` bytes if all of them are in the page cache still; None: the disk would have to be read.

    What was verified and then written to the page cache, and comes from there, needs not be verified again.
    """
    if not 0 < size <= MEMORY_LIMIT or os.fstat(descriptor).st_size != size:
        return None
    content = io.BytesIO()
    content.seek(size - 1)
    content.write(b"\0")
    content.seek(0)
    with content.getbuffer() as buffer:
        try:
            count = os.preadv(descriptor, [buffer], 0, os.RWF_NOWAIT)
        except OSError:  # nothing of it, or a file system that cannot tell
            return None
    return content if count == size else None


def _opened(descriptor: int, size: int) -> BinaryIO | None:
    """The file or its content in memory, if these are the bytes Orthanc's index describes and Isen has stored.

    Raises:
        OSError: the disk failed.
    """
    if os.fstat(descriptor).st_size != size:  # compressed by Orthanc
        return None
    try:
        digest = os.getxattr(descriptor, DIGEST_ATTRIBUTE)
    except OSError:  # a file system without extended attributes
        digest = None
    if size <= MEMORY_LIMIT:
        content = os.pread(descriptor, size, 0)
        return io.BytesIO(content) if digest in (None, sha256(content).digest()) and len(content) == size else None
    if size % 2:  # it has to be padded, which a file cannot be
        return None
    if digest is not None:
        with open(descriptor, "rb", closefd=False) as file:
            if file_digest(file, "sha256").digest() != digest:
                return None
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.fdopen(os.dup(descriptor), "rb")


def _connected(path: Path) -> socket.socket:
    """A connection to the socket at `path`, which may be longer than an address can be."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_TIMEOUT)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection
