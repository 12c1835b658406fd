"""DICOM files straight from spool, cache or S3: the transfer process hands over a descriptor, no byte goes over HTTP.

Orthanc's index names the attachment of each instance, so its REST API need not carry the file: per 512 KB image that
saves Orthanc, its plugin and this worker several copies. Whatever is unusual is left to Orthanc: attachments it has
compressed, conversions, and every failure, which it reports with its reason. At the other end is
`backend.transfer.server`.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from pathlib import Path
from typing import Any, BinaryIO, Final

from config.settings import StorageStructure
from scp.deliveries import UUID, Deliveries, connected, encoded
from scp.handed_over import taken

log = logging.getLogger(__name__)

_MAXIMUM_CONNECTIONS: Final = 16  # of one worker; each has a thread in the transfer process
_MAXIMUM_DELIVERIES: Final = 16  # retrieve requests of one worker that have one more each, as long as they last
_LONGEST_REPLY: Final = 1024  # bytes; why something failed may be cut off, nobody reads it


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
        if not UUID.fullmatch(uuid):
            return None
        try:
            reply, descriptors = self._asked({"Operation": "fetch", "Name": uuid + self._extension, "For": "send"})
        except OSError as error:
            log.info("attachment_not_handed_over uuid=%s reason=%s", uuid, error)
            return None
        if not descriptors:
            return None  # the reply says why, but Orthanc's own attempt will say it to the operator
        return taken(uuid, descriptors[0], size, _verified_at(reply))

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
                connection = connected(self._path)
            connection.send(encoded(message))
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


def _verified_at(reply: bytes) -> float:
    try:
        return float(json.loads(reply)["VerifiedAt"])
    except (ValueError, KeyError, TypeError):
        return 0.0
