"""REST routes and processes of the managed worklist: `scp.worklists` answers the routes, `scp.hl7` takes HL7 orders.

Nothing is looked at here. The listening socket outlives that process, so a request made while it restarts waits and is
answered by the next one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from backend import messages
from config.scp_workers import scp_settings

Process = tuple[str, str, dict[str, Any], tuple[int, ...]]  # name, module, launch message, descriptors

MAXIMUM_BODY: Final = 4 * 1024 * 1024  # bytes, as in scp.worklists.server
_PATTERNS: Final = (
    "/isen/worklists",
    "/isen/worklists/([^/]+)",
    "/worklists",
    "/worklists/([^/]+)",
)
_PATIENCE: Final = 20.0  # seconds


class WorklistRoutes:
    """What the plugin holds for the worklists; without `ManagedDirectory` there are no routes, and a process only if
    files are to be deleted.
    """

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        """`folder` is where the socket lies; nobody else may use it."""
        self._settings = settings
        self._path = folder / "worklists.sock"
        worklists = settings["Worklists"]
        self._is_managed = worklists["ManagedDirectory"] is not None
        self._deletes_files = worklists["Directory"] is not None and worklists["DeleteWorklistsOnStableStudy"]

    def processes(self, token: str) -> list[Process]:
        """The processes to start; `token` opens Orthanc's REST API to them."""
        if not (self._is_managed or self._deletes_files):
            return []
        settings = scp_settings(self._settings)
        listener = messages.listen(self._path).detach()
        found: list[Process] = [
            (
                "worklists",
                "scp.worklists",
                {"Settings": settings, "Listener": listener, "Token": token},
                (listener,),
            )
        ]
        if self._settings["Hl7"] is not None:
            found.append(("hl7", "scp.hl7", {"Settings": settings}, ()))
        return found

    def patterns(self) -> tuple[str, ...]:
        """The routes, each served by `answer`."""
        return _PATTERNS if self._is_managed else ()

    def answer(self, output: Any, uri: str, **request: Any) -> None:
        """The REST callback."""
        body = request.get("body") or b""
        if len(body) > MAXIMUM_BODY:
            _send(output, 413, _error(413, f"the body is larger than {MAXIMUM_BODY} bytes"))
            return
        try:
            status, document = self._ask(request["method"], uri, request.get("get", {}), body)
        except (OSError, ValueError):
            status, document = 503, _error(503, "the process that keeps the worklist does not answer; try again")
        _send(output, status, document)

    def _ask(self, method: str, uri: str, arguments: dict[str, str], body: bytes) -> tuple[int, bytes]:
        with messages.connect(self._path) as connection:
            connection.settimeout(_PATIENCE)
            with open(os.memfd_create("body", os.MFD_CLOEXEC), "wb") as file:
                file.write(body)
                file.flush()
                request = {"Method": method, "Path": uri, "Arguments": arguments}
                messages.send(connection, request, [file.fileno()])
            reply, (descriptor,) = messages.receive(connection)
        with open(descriptor, "rb") as file:
            file.seek(0)  # the offset is the writer's, who is at the end
            return int(reply["Status"]), file.read()


def _send(output: Any, status: int, document: bytes) -> None:
    if status == 200:
        output.AnswerBuffer(document, "application/json")
    elif status == 405:
        output.SendMethodNotAllowed(json.loads(document)["Message"])
    else:
        output.SetHttpHeader("Content-Type", "application/json")
        try:
            output.SendHttpStatus(status, document)
        except TypeError:  # until version 4.1 of the plugin it took the C function's arguments
            output.SendHttpStatus(status, document.decode(), len(document))


def _error(status: int, message: str) -> bytes:
    return json.dumps({"HttpStatus": status, "Message": message}).encode() + b"\n"
