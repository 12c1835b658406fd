"""Whether a front end works, over HTTP, for the load balancer before it and for operators:

    GET /health/live     200 while the process runs
    GET /health/ready    200 if an association that comes now would be served, otherwise 503
    GET /status          JSON: the workers with their associations

No log-in: it tells nothing of patients and changes nothing. Bind it where only those who should see it can. Bounded are
the connections and the time that each may take. If there are too many, the oldest gives way to the newest: whoever only
holds connections must not keep the load balancer from asking.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

log = logging.getLogger(__name__)

MAXIMUM_CONNECTIONS: Final = 16
REQUEST_TIMEOUT: Final = 5.0  # seconds for a request and its answer
_LOOK_INTERVAL: Final = 0.5  # seconds between two looks for those that take longer


class HealthServer:
    """Listens from the beginning, answers after `start`."""

    def __init__(
        self, address: str, port: int, *, is_ready: Callable[[], bool], document: Callable[[], dict[str, Any]]
    ) -> None:
        """`document` is what `/status` shows.

        Raises:
            OSError: with a sentence for the operator.
        """

        class Handler(_Handler):
            def answers(self) -> dict[str, Callable[[], tuple[int, dict[str, Any]]]]:
                return {
                    "/health/live": lambda: (200, {"Live": True}),
                    "/health/ready": lambda: (200, {"Ready": True}) if is_ready() else (503, {"Ready": False}),
                    "/status": lambda: (200, document()),
                }

        try:
            self._server = _Server((address, port), Handler)
        except OSError as error:
            raise OSError(
                f"Isen.FrontEnd.HealthPort: cannot listen on {address} port {port}: {error.strerror}; choose another"
            ) from None

    def start(self) -> None:
        """Answer from now on, in threads of its own."""
        threading.Thread(target=self._server.serve_forever, args=(_LOOK_INTERVAL,), name="health", daemon=True).start()


class _Server(ThreadingHTTPServer):
    """A thread for each connection, which ends in time: what it waits for then is shut down."""

    daemon_threads = True
    request_queue_size = 128  # accepted at once, so that they cannot keep others waiting

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: dict[socket.socket, float] = {}  # with the monotonic time of its beginning, the oldest first
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAXIMUM_CONNECTIONS:
                self._end_oldest()
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Between two connections, and twice a second."""
        late = time.monotonic() - REQUEST_TIMEOUT
        with self._lock:
            while self._open and next(iter(self._open.values())) < late:
                self._end_oldest()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # those are clients that have gone
            log.error("health_request_failed reason=%r", error)

    def _end_oldest(self) -> None:
        oldest = next(iter(self._open))
        del self._open[oldest]
        with suppress(OSError):  # its client has ended it
            oldest.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    def answers(self) -> dict[str, Callable[[], tuple[int, dict[str, Any]]]]:
        """Path → status and JSON."""
        raise NotImplementedError

    def do_GET(self) -> None:
        answer = self.answers().get(self.path)
        status, document = answer() if answer else (404, {"Paths": sorted(self.answers())})
        content = json.dumps(document, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 -- the library's names

    def log_message(self, *_: object) -> None:
        """Nothing: a load balancer asks every second."""
