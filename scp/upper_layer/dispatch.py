"""From a command set to the service that answers it, and from whatever the service raises to a DIMSE status.

This is the boundary where errors become statuses: `Refusal` keeps its own, anything else is a failure of ours and is
logged once, by type only, because texts of exceptions may hold patient data.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from scp.access_control import AccessControl
from scp.request import Service
from scp.statuses import (
    CANNOT_UNDERSTAND,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    UNRECOGNIZED_OPERATION,
    Refusal,
)
from scp.upper_layer.association import Association
from scp.upper_layer.command_set import C_CANCEL_RQ, PRIMITIVES, RESPONSE, to_primitive
from scp.upper_layer.data_set_buffer import DataSetBuffer, MemoryBudget
from scp.upper_layer.errors import AssociationEnded, ProtocolViolation
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import Command
from scp.upper_layer.negotiation import NegotiatedContext
from scp.upper_layer.served_request import ServedRequest, respond

log = logging.getLogger(__name__)

_C_STORE: Final = 0x0001  # CommandField
_FIRST_DIMSE_N: Final = 0x0100


class Dispatcher:
    """Serves the requests of all associations of a worker; thread-safe."""

    def __init__(
        self,
        services: Iterable[Service],
        *,
        access: AccessControl,
        limits: Limits,
        folder: Path,
        budget: MemoryBudget,
    ) -> None:
        self._services: dict[tuple[str, str], Service] = {}
        self._storage: Service | None = None
        for service in services:
            if service.dimse == "C_STORE":
                self._storage = service
            for uid in service.sop_classes:
                self._services[service.dimse, str(uid)] = service
        self._access = access
        self._limits = limits
        self._folder = folder
        self._budget = budget
        self._counters: Counter[str] = Counter()
        self._lock = threading.Lock()

    def counters(self) -> dict[str, int]:
        """How often each service answered, and with which outcome, since the start."""
        with self._lock:
            return dict(self._counters)

    def count(self, name: str) -> None:
        with self._lock:
            self._counters[name] += 1

    def dispatch(self, association: Association, command: Command) -> None:
        """Read the message to its end and answer it.

        Raises:
            AssociationEnded: the peer is gone, or broke the protocol.
        """
        context = association.contexts.get(command.context_id)
        if context is None:
            raise ProtocolViolation("unknown_presentation_context")
        field = command.fields.get("CommandField", 0)
        if field == C_CANCEL_RQ:
            return  # it came after the final response: PS3.7 9.3.2.3 has it ignored
        if field & RESPONSE or "MessageID" not in command.fields:
            raise ProtocolViolation("unexpected_message")
        service, refusal = self._find_service(association, context, command)
        message = to_primitive(command.fields) if service else None  # now, while the data set is on its way
        buffer = self._buffer(field, refusal)
        try:
            if command.has_data_set:
                association.read_data_set(command, buffer)
            refusal = refusal or buffer.refusal
            if service is None or refusal is not None:
                self._refuse(association, context, command, refusal or Refusal(PROCESSING_FAILURE, "no service"))
            else:
                self._serve(service, ServedRequest(association, context, message, command, buffer))
        finally:
            buffer.close()

    def _find_service(
        self, association: Association, context: NegotiatedContext, command: Command
    ) -> tuple[Service | None, Refusal | None]:
        primitive = PRIMITIVES.get(command.fields.get("CommandField", 0))
        if primitive is None:
            return None, Refusal(UNRECOGNIZED_OPERATION, "unknown operation")
        abstract_syntax = context.accepted.abstract_syntax
        named = command.fields.get("AffectedSOPClassUID") or command.fields.get("RequestedSOPClassUID")
        service = self._services.get((primitive.__name__, str(abstract_syntax)))
        if service is None and context.is_storage and primitive.__name__ == "C_STORE":
            service = self._storage
        if service is None:
            return None, Refusal(UNRECOGNIZED_OPERATION, "operation is not offered for this SOP class")
        if named != abstract_syntax:
            return None, Refusal(SOP_CLASS_NOT_SUPPORTED, "SOP class is not the one of the presentation context")
        peer = association.peer
        if not self._access.allows(service.permission, peer.calling_ae_title, peer.address):
            return service, Refusal(NOT_AUTHORIZED, f"{service.name} is not allowed for this AE title")
        return service, None

    def _buffer(self, field: int, refusal: Refusal | None) -> DataSetBuffer:
        is_store = field == _C_STORE
        maximum = self._limits.maximum_data_set_length
        keep = maximum if is_store else min(maximum, self._limits.maximum_identifier_length)
        return DataSetBuffer(
            memory=self._limits.data_set_memory,
            keep=0 if refusal else keep,
            maximum=maximum,
            folder=self._folder,
            budget=self._budget,
        )

    def _serve(self, service: Service, request: ServedRequest) -> None:
        try:
            service.serve(request)
            if not request.is_answered:
                raise Refusal(_failure_status(request.command), "the service gave no answer")
            self.count(_counter(service.name, "served"))
        except AssociationEnded:
            self.count(_counter(service.name, "interrupted"))
            raise
        except Refusal as refusal:
            self._log_refusal(service.name, request.association, refusal.status, refusal.comment)
            _fail(request, refusal.status, refusal.comment)
        except Exception as error:  # noqa: BLE001 -- the boundary: a failing service must not end the association
            status = _failure_status(request.command)
            self._log_refusal(service.name, request.association, status, f"exception {_describe(error)}")
            _fail(request, status, "internal error")

    def _refuse(self, association: Association, context: NegotiatedContext, command: Command, refusal: Refusal) -> None:
        operation = PRIMITIVES.get(command.fields.get("CommandField", 0))
        name = operation.__name__ if operation else "unknown"
        self._log_refusal(name, association, refusal.status, refusal.comment)
        respond(association, context, command, refusal.status, None, {"ErrorComment": refusal.comment})

    def _log_refusal(self, operation: str, association: Association, status: int, reason: str) -> None:
        self.count("refused")
        log.warning(
            "request_refused operation=%s status=0x%04X calling_ae_title=%r address=%s reason=%r",
            operation,
            status,
            association.peer.calling_ae_title,
            association.peer.address,
            reason,
        )


def _counter(service: str, outcome: str) -> str:
    """C-FIND, served: c_find_served."""
    return f"{service}_{outcome}".lower().replace("-", "_").replace(" ", "_")


def _fail(request: ServedRequest, status: int, comment: str) -> None:
    """Answer, unless the service failed after its final answer: there must not be two (PS3.7 9.3)."""
    if not request.is_answered:
        request.respond(status, ErrorComment=comment)


def _failure_status(command: Command) -> int:
    field = command.fields["CommandField"]
    if field & 0x0FFF >= _FIRST_DIMSE_N:
        return PROCESSING_FAILURE
    return OUT_OF_RESOURCES if field == _C_STORE else CANNOT_UNDERSTAND


def _describe(error: BaseException) -> str:
    """Type and place of the error; its text may hold patient data."""
    trace: Any = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
    return f"{type(error).__name__} at {place}"
