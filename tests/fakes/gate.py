"""A gate in front of a TCP server: lets connections through, refuses them, or swallows what they carry.

Stands for a server that was stopped (`refuse`) and for a network that drops packets (`blackhole`), while the server
itself keeps its data and its port.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
import time

_CHUNK = 256 * 1024  # bytes
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds


class Gate:
    """Open at first. Each connection is carried by two threads; meant for some dozens of them."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        """Listens on `port` of the loopback interface and passes everything on to `target`."""
        self.url = f"http://127.0.0.1:{port}"
        self.delay = 0.0  # seconds that whatever is sent to the target takes
        self.carried_back = 0  # bytes, from the target
        self.reached = math.inf  # monotonic time of the first connection
        self._target = target
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listens = False
        self.open()

    def open(self) -> None:
        """Everything goes through again; what a blackhole held back arrives late, as after lost packets."""
        self._passing.set()
        if not self._listens:
            self._listens = True
            self._listener.listen(128)
            threading.Thread(target=self._accept, name="gate", daemon=True).start()

    def refuse(self) -> None:
        """Every connection is reset and new ones are refused, until `open`."""
        if self._listens:
            self._listens = False
            self._listener.shutdown(socket.SHUT_RDWR)  # Linux: it stops listening and keeps its port
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # wakes its carrier, which resets it
        self._passing.set()

    def blackhole(self) -> None:
        """Connections are made and stay, but nothing comes through, until `open`."""
        self._passing.clear()

    def close(self) -> None:
        """Ends the gate for good."""
        self.refuse()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # refused or closed
            self.reached = min(self.reached, time.monotonic())
            threading.Thread(target=self._connect, args=(client,), name="gate", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._passing.wait()
        try:
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        for connection in pair:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.update(pair)
        back = threading.Thread(target=self._carry, args=(server, client), name="gate", daemon=True)
        back.start()
        self._carry(client, server)
        back.join()
        with self._lock:
            self._connections.difference_update(pair)
        for connection in pair:
            if not self._listens:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            connection.close()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what `source` sends until it ends, then tell `sink`."""
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._passing.wait()
                if source.getpeername() == self._target:
                    with self._lock:
                        self.carried_back += len(data)
                else:
                    time.sleep(self.delay)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
