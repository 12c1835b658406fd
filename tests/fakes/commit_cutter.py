"""A gate in front of a database server that loses the answer to one commit, as if the connection had broken then."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Final

from tests.fakes.gate import Gate

_CHUNK: Final = 256 * 1024  # bytes
_COMMIT: Final = b"COMMIT"


class CommitCutter(Gate):
    """Open at first, and nothing is cut before `cut`."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        """Listens on `port` of the loopback interface and passes everything on to `target`."""
        self.port = port
        self.options: dict[str, Any] = {}  # Orthanc's section for the database, through this gate
        self._marker = b""
        self._delay = 0.0
        self.was_cut = threading.Event()
        super().__init__(port, target)

    def cut(self, marker: bytes, delay: float = 0.0) -> None:
        """Lose the answer to the next commit on a connection that has carried `marker`.

        The client sees its connection end. The server gets the commit `delay` seconds later, and carries it out.
        """
        self.was_cut.clear()
        self._delay = delay
        self._marker = marker

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if source.getpeername() != self._target:
                self._carry_statements(source, sink)
        super()._carry(source, sink)

    def _carry_statements(self, source: socket.socket, sink: socket.socket) -> None:
        is_marked = False
        while data := source.recv(_CHUNK):
            is_marked = is_marked or (bool(self._marker) and self._marker in data)
            if is_marked and _COMMIT in data:
                self._marker = b""
                source.shutdown(socket.SHUT_RDWR)
                time.sleep(self._delay)
                sink.sendall(data)
                self.was_cut.set()
                return
            sink.sendall(data)
