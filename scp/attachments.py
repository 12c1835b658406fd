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
from collections.abc import Iterator, Sequence
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final

from config.settings import StorageStructure
from scp.durable_folder import DIGEST_ATTRIBUTE

log = logging.getLogger(__name__)

MEMORY_LIMIT: Final = 16 * 1024 * 1024  # bytes of a file held in memory; a larger one is sent from its descriptor
_TIMEOUT: Final = 60.0  # seconds for one file
_MAXIMUM_CONNECTIONS: Final = 16  # of one worker; each has a thread in the transfer process
_LONGEST_REPLY: Final = 65536  # bytes
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class AttachmentFiles:
    """Opens the DICOM files of attachments. Thread-safe."""

    def __init__(self, directory: Path, structure: StorageStructure) -> None:
        """`directory` is where the transfer process listens. Nothing is connected yet."""
        self._path = directory / "transfer.sock"
        self._extension = "" if structure is StorageStructure.LEGACY else ".dcm"
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._count = 0

    def open(self, uuid: str, size: int) -> BinaryIO | None:
        """The verified DICOM file of `size` bytes, at its start; None: ask Orthanc for it. Close it."""
        if not _UUID.fullmatch(uuid):
            return None
        try:
            descriptor, was_verified = self._fetch(uuid + self._extension)
        except (OSError, ValueError) as error:
            log.info("attachment_not_handed_over uuid=%s reason=%s", uuid, error)
            return None
        if descriptor is None:
            return None
        file = os.fdopen(descriptor, "rb")
        opened = None
        try:
            opened = (_cached_content(descriptor, size) if was_verified else None) or _opened(file, size)
        except OSError as error:
            log.warning("attachment_unreadable uuid=%s reason=%s", uuid, error)
        finally:
            if opened is not file:
                file.close()
        return opened

    def announce(self, attachments: Sequence[tuple[str, int]]) -> None:
        """Say which attachments, by UUID and size, will be opened soon, in this order. Never fails."""
        wanted = [(uuid + self._extension, size) for uuid, size in attachments if _UUID.fullmatch(uuid)]
        if not wanted:
            return
        with contextlib.suppress(OSError, ValueError), self._connection() as connection:
            if connection:
                _send(connection, {"Operation": "announce", "Attachments": wanted})

    def _fetch(self, name: str) -> tuple[int | None, bool]:
        """A descriptor, and whether its bytes were verified when they were written, a moment ago."""
        with self._connection() as connection:
            if connection is None:
                return None, False
            _send(connection, {"Operation": "fetch", "Name": name, "For": "send"})
            packet, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_REPLY, 1)
            if descriptors:
                return descriptors[0], _was_verified(packet)
            if not packet:
                raise ConnectionError("the transfer process has closed the connection")
            return None, False  # it says why, but Orthanc's own attempt will say it to the operator

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket | None]:
        """A connection for one request, or None if all are in use. It is kept unless the block fails."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            if connection is None and self._count == _MAXIMUM_CONNECTIONS:
                may_connect = False
            else:
                may_connect = True
                self._count += connection is None
        if not may_connect:
            yield None
            return
        try:
            if connection is None:
                connection = _connected(self._path)
            yield connection
        except BaseException:
            with self._lock:
                self._count -= 1
            if connection is not None:
                connection.close()
            raise
        with self._lock:
            self._idle.append(connection)


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


def _opened(file: BufferedReader, size: int) -> BinaryIO | None:
    """`file` or its content in memory, if these are the bytes Orthanc's index describes and Isen has stored.

    Raises:
        OSError: the disk failed.
    """
    if os.fstat(file.fileno()).st_size != size:  # compressed by Orthanc
        return None
    try:
        digest = os.getxattr(file.fileno(), DIGEST_ATTRIBUTE)
    except OSError:  # a file system without extended attributes
        digest = None
    if size <= MEMORY_LIMIT:
        content = file.read(size)
        return io.BytesIO(content) if digest in (None, sha256(content).digest()) and len(content) == size else None
    if size % 2:  # it has to be padded, which a file cannot be
        return None
    if digest is not None and file_digest(file, "sha256").digest() != digest:
        return None
    file.seek(0)
    return file


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message, separators=(",", ":")).encode())


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
