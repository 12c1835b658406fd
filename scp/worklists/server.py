"""Answers the plugin's requests on the socket it has made: one packet is one JSON object, bodies travel as descriptors.

    → {"Method", "Path", "Arguments"} and the descriptor of a file with the body
    ← {"Status"} and the descriptor of a file with the JSON document

The files are anonymous memory, so that a packet stays small whatever a body holds. The other end is
`backend.plugin.worklist_routes`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from scp.worklists.api import Answer, Request

log = logging.getLogger(__name__)

MAXIMUM_CONNECTIONS: Final = 16  # requests at a time; Orthanc's HTTP threads wait for the others
MAXIMUM_MESSAGE: Final = 64 * 1024  # bytes, as in backend.messages
MAXIMUM_BODY: Final = 4 * 1024 * 1024  # bytes
_ACCEPT_PAUSE: Final = 0.1  # seconds, when accept(2) fails
PATIENCE: Final = 10.0  # seconds for a request that has been announced by its connection


class Server:
    """Accepts connections until the process ends; each carries one request."""

    def __init__(self, listener: socket.socket, answer: Callable[[Request], Answer]) -> None:
        self._listener = listener
        self._answer = answer
        self._places = threading.Semaphore(MAXIMUM_CONNECTIONS)

    def start(self) -> None:
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def _accept(self) -> None:
        self._listener.setblocking(True)  # noqa: FBT003 - the standard library's signature
        while True:
            self._places.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # too many open files, most likely; whoever asks waits in the backlog
                self._places.release()
                log.error("accept_failed reason=%s", error.strerror)  # noqa: TRY400 - one line per event
                time.sleep(_ACCEPT_PAUSE)
                continue
            threading.Thread(target=self._serve, args=(connection,), name="request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(PATIENCE)
                _reply(connection, self._answer(_request(connection)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("worklist_request_lost exception=%s", type(error).__name__)
        finally:
            self._places.release()


def _request(connection: socket.socket) -> Request:
    packet, descriptors, _, _ = socket.recv_fds(connection, MAXIMUM_MESSAGE, 1)
    try:
        message: dict[str, Any] = json.loads(packet)
        body = b""
        for descriptor in descriptors:
            body = os.pread(descriptor, MAXIMUM_BODY, 0)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return Request(message["Method"], message["Path"], message["Arguments"], body)


def _reply(connection: socket.socket, answer: Answer) -> None:
    document = json.dumps(answer.document, indent=2).encode() + b"\n"
    with open(os.memfd_create("answer", os.MFD_CLOEXEC), "wb") as file:
        file.write(document)
        file.flush()
        socket.send_fds(connection, [json.dumps({"Status": answer.status}).encode()], [file.fileno()])
