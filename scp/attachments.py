"""DICOM files straight from spool, cache or S3: the transfer process hands over a descriptor, no byte goes over HTTP.

Orthanc's index names the attachment of each instance, so its REST API need not carry the file: per 512 KB image that
saves Orthanc, its plugin and this worker several copies. Whatever is unusual is left to Orthanc: attachments it has
compressed, conversions, and every failure, which it reports with its reason. At the other end is
`backend.transfer.server`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from config.settings import StorageStructure
from scp.durable_folder import DIGEST_ATTRIBUTE

log = logging.getLogger(__name__)

MEMORY_LIMIT: Final = 16 * 1024 * 1024  # bytes of a file held in memory; a larger one is sent from its descriptor
_TIMEOUT: Final = 60.0  # seconds for one file
_SHORTEST_WAIT: Final = 0.001  # seconds: enough for what has come already
_MAXIMUM_CONNECTIONS: Final = 16  # of one worker; each has a thread in the transfer process
_LONGEST_REPLY: Final = 1024  # bytes; why something failed may be cut off, nobody reads it
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

    def ask(self, uuid: str, size: int) -> AskedFile | None:
        """Ask for the DICOM file of `size` bytes, without waiting for it; None: ask Orthanc."""
        if not _UUID.fullmatch(uuid):
            return None
        try:
            connection = self._request({"Operation": "fetch", "Name": uuid + self._extension, "For": "send"})
        except OSError as error:
            log.info("attachment_not_handed_over uuid=%s reason=%s", uuid, error)
            return None
        return None if connection is None else AskedFile(self, connection, uuid, size, time.monotonic() + _TIMEOUT)

    def announce(self, attachments: Sequence[tuple[str, int]]) -> None:
        """Say which attachments, by UUID and size, will be opened soon, in this order. Never fails."""
        wanted = [(uuid + self._extension, size) for uuid, size in attachments if _UUID.fullmatch(uuid)]
        if not wanted:
            return
        with contextlib.suppress(OSError):
            connection = self._request({"Operation": "announce", "Attachments": wanted})
            if connection:
                self.keep(connection)

    def _request(self, message: dict[str, Any]) -> socket.socket | None:
        """The connection `message` was sent over, to be given to `keep` or `drop`; None: all are in use."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            if connection is None:
                if self._count == _MAXIMUM_CONNECTIONS:
                    return None
                self._count += 1
        try:
            if connection is None:
                connection = _connected(self._path)
            connection.send(json.dumps(message, separators=(",", ":")).encode())
        except BaseException:
            self.drop(connection)
            raise
        return connection

    def keep(self, connection: socket.socket) -> None:
        """No answer is due on this connection: others may use it."""
        with self._lock:
            self._idle.append(connection)

    def drop(self, connection: socket.socket | None) -> None:
        """Close this connection, and with it what was sent over it; None: it was not made."""
        with self._lock:
            self._count -= 1
        if connection is not None:
            connection.close()


@dataclass(frozen=True)
class AskedFile:
    """A file the transfer process was asked for. Either `open` or `close` it, in any thread."""

    _files: AttachmentFiles
    _connection: socket.socket
    _uuid: str
    _size: int
    _deadline: float  # monotonic

    def open(self) -> BinaryIO | None:
        """The verified file, at its start, once it has come; None: ask Orthanc for it. Close it."""
        try:
            descriptor, was_verified = self._received()
        except OSError as error:
            log.info("attachment_not_handed_over uuid=%s reason=%s", self._uuid, error)
            return None
        if descriptor is None:
            return None
        try:
            content = _cached_content(descriptor, self._size) if was_verified else None
            return content or _opened(descriptor, self._size)
        except OSError as error:
            log.warning("attachment_unreadable uuid=%s reason=%s", self._uuid, error)
            return None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Do without the file, which may be on its way: its connection has to go."""
        self._files.drop(self._connection)

    def _received(self) -> tuple[int | None, bool]:
        """A descriptor, and whether its bytes were verified when they were written, a moment ago."""
        try:
            # Files that were asked for together time out together, though they are opened one after the other.
            self._connection.settimeout(max(_SHORTEST_WAIT, self._deadline - time.monotonic()))
            packet, descriptors, _, _ = socket.recv_fds(self._connection, _LONGEST_REPLY, 1)
            if not packet:
                raise ConnectionError("the transfer process has closed the connection")
        except BaseException:
            self._files.drop(self._connection)
            raise
        self._files.keep(self._connection)
        if descriptors:
            return descriptors[0], _was_verified(packet)
        return None, False  # it says why, but Orthanc's own attempt will say it to the operator


def _was_verified(reply: bytes) -> bool:
    try:
        return json.loads(reply)["Verified"] is True
    except (ValueError, KeyError, TypeError):
        return False


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
