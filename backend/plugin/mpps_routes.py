"""REST routes of performed procedure steps: the files of `scp.performed_procedure.store`, as they are.

    GET /isen/mpps[?limit=100]   the steps, the last changed first; at most 1000, and at most 64 MB of them
    GET /isen/mpps/{uid}         one step by its SOP Instance UID

Nothing is parsed here: the files hold JSON.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from backend.plugin.commitment_routes import send_status

_DEFAULT: Final = 100
_MAXIMUM: Final = 1000
_MAXIMUM_BYTES: Final = 64 * 1024 * 1024  # of an answer: modalities decide how much a step holds, up to some MB


class MppsRoutes:
    """The callbacks."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._folder = Path(settings["Storage"]["SpoolDirectory"]) / "mpps"
        self._steps = self._folder / "steps"
        self._offered = settings["Dicom"] is not None
        self._forwards_to = (settings["Dicom"] or {}).get("ForwardPerformedProcedureSteps") or None

    def routes(self) -> dict[str, Callable[..., None]]:
        """Pattern → callback; none without our SCP."""
        return {"/isen/mpps": self.newest, "/isen/mpps/([0-9.]{1,64})": self.get} if self._offered else {}

    def forwarding(self) -> dict[str, int] | None:
        """How many steps are still to be forwarded, and how many were refused; None if nobody is told of them."""
        if self._forwards_to is None:
            return None
        return {name.capitalize(): _count(self._folder / name) for name in ("outgoing", "refused")}

    def newest(self, output: Any, _uri: str, **request: Any) -> None:
        """The last changed steps."""
        if request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
            return
        limit = request.get("get", {}).get("limit", str(_DEFAULT))
        if not limit.isdecimal() or len(limit) > len(str(_MAXIMUM)) or not 1 <= int(limit) <= _MAXIMUM:
            send_status(output, 400)
            return
        documents, room = [], _MAXIMUM_BYTES
        for name in self._newest(int(limit)):
            document = self._read(name) or b""
            room -= len(document)
            if room < 0:
                break
            if document:
                documents.append(document)
        output.AnswerBuffer(b"[" + b",\n".join(documents) + b"]\n", "application/json")

    def get(self, output: Any, _uri: str, **request: Any) -> None:
        """One step, or 404."""
        if request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
            return
        document = self._read(hashlib.sha256(request["groups"][0].encode()).hexdigest())
        if document is None:
            send_status(output, 404)
        else:
            output.AnswerBuffer(document, "application/json")

    def _newest(self, limit: int) -> list[str]:
        found = []
        for name in os.listdir(self._steps) if self._steps.is_dir() else []:
            try:
                found.append(((self._steps / name).stat().st_mtime_ns, name))
            except FileNotFoundError:
                continue
        return [name for _, name in sorted(found, reverse=True)[:limit]]

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._steps / name).read_bytes()
        except FileNotFoundError:
            return None


def _count(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0  # no worker has made it yet
