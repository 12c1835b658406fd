"""`/isen/prefetch`: have studies and series fetched into the cache before somebody asks for them.

    POST    a JSON list of Orthanc's identifiers of patients, studies, series or instances, or {"Resources": [...]}
    GET     how far it is
    DELETE  forget what is queued

Each answers the state as `backend.transfer.prefetch_requests` describes it. Orthanc decides who may use the route, as
with its own.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any, Final

from backend.plugin.commitment_routes import send_status
from backend.plugin.request_json import read_json
from backend.plugin.transfer_client import TransferClient, TransferError

MAXIMUM_RESOURCES: Final = 1000  # of one request; they fit into one message to the transfer process
_TIMEOUT: Final = 10.0  # seconds; the transfer process only queues
_ORTHANC_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


class PrefetchRoute:
    """The callback. It holds no GIL while it waits."""

    def __init__(self, transfer: TransferClient) -> None:
        self._transfer = transfer

    def answer(self, output: Any, _uri: str, **request: Any) -> None:
        """The REST callback: 400 for what are no identifiers, 413 for too many, 503 if nobody can be asked."""
        resources: list[str] = []
        action = {"POST": "add", "GET": "state", "DELETE": "cancel"}.get(request["method"])
        if action is None:
            output.SendMethodNotAllowed("GET,POST,DELETE")
            return
        if action == "add":
            found = _resources(request["body"])
            if found is None:
                send_status(output, HTTPStatus.BAD_REQUEST)
                return
            if len(found) > MAXIMUM_RESOURCES:
                send_status(output, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            resources = found
        try:
            state = self._transfer.prefetch(action, resources, _TIMEOUT)
        except TransferError:
            send_status(output, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        output.AnswerBuffer(json.dumps(state, indent=2) + "\n", "application/json")


def _resources(body: bytes) -> list[str] | None:
    """The identifiers in a request's body, each once; None if it is not a list of them."""
    try:
        content = read_json(body)
    except ValueError:
        return None
    if isinstance(content, dict):
        content = content.get("Resources")
    if not isinstance(content, list):
        return None
    if not all(isinstance(resource, str) and _ORTHANC_ID.fullmatch(resource) for resource in content):
        return None
    return list(dict.fromkeys(content))
