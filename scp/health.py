"""Whether a front end works, over HTTP, for the load balancer before it and for operators:

    GET /health/live     200 while the process runs
    GET /health/ready    200 if an association that comes now would be served, otherwise 503
    GET /status          JSON: the workers with their associations

No log-in: it tells nothing of patients and changes nothing. Bind it where only those who should see it can.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_REQUEST_TIMEOUT: Final = 5.0  # seconds to send a request


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
            self._server = ThreadingHTTPServer((address, port), Handler)
        except OSError as error:
            raise OSError(
                f"Isen.FrontEnd.HealthPort: cannot listen on {address} port {port}: {error.strerror}; choose another"
            ) from None
        self._server.daemon_threads = True

    def start(self) -> None:
        """Answer from now on, in threads of its own."""
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT

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
