"""Messages between the plugin and the transfer process, over a Unix socket that keeps packets whole.

One packet (SOCK_SEQPACKET) is one JSON object; file descriptors travel with it. The socket's file lies in the spool
folder, whose path may be longer than the 107 bytes a socket address holds: bind and connect therefore go through
`/proc/self/fd`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

MAXIMUM_MESSAGE: Final = 64 * 1024  # bytes
_MAXIMUM_DESCRIPTORS: Final = 4
_BACKLOG: Final = 128


class Disconnected(ConnectionError):
    """The other side has closed the connection."""


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`; only the owner can connect. A left-over file of that name is replaced."""
    path.unlink(missing_ok=True)
    listener = _socket()
    _through_directory(path, listener.bind)
    path.chmod(0o600)
    listener.listen(_BACKLOG)
    return listener


def connect(path: Path) -> socket.socket:
    """Connect to the listener at `path`. It answers once a process accepts; set a time-out on the result."""
    connection = _socket()
    try:
        _through_directory(path, connection.connect)
    except OSError:
        connection.close()
        raise
    return connection


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message, and duplicates of `descriptors` with it."""
    socket.send_fds(connection, [json.dumps(message, separators=(",", ":")).encode()], descriptors)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for one message; the caller owns the descriptors that came with it.

    Raises:
        Disconnected: end of the connection.
        TimeoutError: the time-out of the connection has passed.
        ValueError: it is not a JSON object, or it is too long.
    """
    packet, descriptors, flags, _ = socket.recv_fds(connection, MAXIMUM_MESSAGE, _MAXIMUM_DESCRIPTORS)
    if not packet:
        raise Disconnected("the other process has closed the connection")
    try:
        message = json.loads(packet)
        if flags & socket.MSG_TRUNC or not isinstance(message, dict):
            raise ValueError("a message is one JSON object of at most 64 KiB")
    except ValueError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, descriptors


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _through_directory(path: Path, use: Any) -> None:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
