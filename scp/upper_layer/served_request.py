"""The `Request` a service answers, on a real association."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from pydicom.dataset import Dataset

from scp.request import AcceptedContext, Peer
from scp.statuses import PENDING, PENDING_WARNING, NoSuitableContext
from scp.upper_layer.association import Association
from scp.upper_layer.command_set import RESPONSE, CommandSet
from scp.upper_layer.data_set_buffer import DataSetBuffer
from scp.upper_layer.errors import AssociationEnded
from scp.upper_layer.identifier import MAXIMUM_ELEMENTS, decode_identifier, encode_identifier
from scp.upper_layer.messages import Command
from scp.upper_layer.negotiation import NegotiatedContext

_C_STORE_RQ: Final = 0x0001
_N_EVENT_REPORT_RQ: Final = 0x0100
QUERY_ELEMENTS: Final = 10_000  # of an Identifier of C-FIND, C-MOVE or C-GET
_LONGEST_COMMENT: Final = 64  # characters, VR LO


class ServedRequest:
    """One request from the moment its data set is complete; see `scp.request.Request`."""

    def __init__(
        self,
        association: Association,
        context: NegotiatedContext,
        message: Any,
        command: Command,
        buffer: DataSetBuffer,
    ) -> None:
        self.association = association
        self.command = command
        self._context = context
        self._message = message
        self._buffer = buffer
        self._data_set: BinaryIO | None = None
        self.is_answered = False  # finally: with another status than Pending

    @property
    def message(self) -> Any:
        return self._message

    @property
    def peer(self) -> Peer:
        return self.association.peer

    @property
    def context(self) -> AcceptedContext:
        return self._context.accepted

    @property
    def extended_negotiation(self) -> bytes:
        return self.association.extended.get(self._context.accepted.abstract_syntax, b"")

    @property
    def data_set(self) -> BinaryIO:
        if self._data_set is None:
            self._data_set = self._buffer.open()
        return self._data_set

    @property
    def data_set_length(self) -> int:
        return self._buffer.length

    def identifier(self) -> Dataset:
        is_query = self.command.fields["CommandField"] < _N_EVENT_REPORT_RQ  # DIMSE-C
        return decode_identifier(
            self._buffer.open(),
            self.context.transfer_syntax,
            self.association.limits,
            QUERY_ELEMENTS if is_query else MAXIMUM_ELEMENTS,
        )

    @property
    def is_cancelled(self) -> bool:
        return self.association.is_cancelled()

    def respond(self, status: int, identifier: Dataset | bytes | None = None, **fields: object) -> None:
        self.is_answered = self.is_answered or status not in (PENDING, PENDING_WARNING)
        respond(self.association, self._context, self.command, status, identifier, fields)

    def storable_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        usable = (candidate.accepted for candidate in self.association.contexts.values() if candidate.peer_is_scp)
        return tuple(str(context.transfer_syntax) for context in usable if context.abstract_syntax == sop_class_uid)

    def store(self, encoded: BinaryIO, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> int:
        wanted = (sop_class_uid, transfer_syntax)
        usable = (candidate.accepted for candidate in self.association.contexts.values() if candidate.peer_is_scp)
        context = next((one for one in usable if (one.abstract_syntax, one.transfer_syntax) == wanted), None)
        if context is None:
            raise NoSuitableContext(f"{sop_class_uid} in {transfer_syntax}")
        command: CommandSet = {
            "AffectedSOPClassUID": sop_class_uid,
            "CommandField": _C_STORE_RQ,
            "Priority": int(self._message.Priority),  # PS3.4 C.4.3.3.1: that of the C-GET
            "AffectedSOPInstanceUID": sop_instance_uid,
        }
        return _status(self.association.exchange(context.context_id, command, encoded))

    def peer_speaks(self, within: float) -> bool:
        return self.association.has_message(within)

    def report_event(self, sop_instance_uid: str, event_type_id: int, information: Dataset) -> int:
        command: CommandSet = {
            "AffectedSOPClassUID": str(self.context.abstract_syntax),
            "CommandField": _N_EVENT_REPORT_RQ,
            "AffectedSOPInstanceUID": sop_instance_uid,
            "EventTypeID": event_type_id,
        }
        encoded = io.BytesIO(encode_identifier(information, self.context.transfer_syntax))
        return _status(self.association.notify(self.context.context_id, command, encoded))


def _status(response: CommandSet) -> int:
    status = response.get("Status")
    if status is None:
        raise AssociationEnded("response without status")
    return int(status)


def respond(  # noqa: PLR0917 -- all six are needed, in the order of the wire
    association: Association,
    context: NegotiatedContext,
    request: Command,
    status: int,
    identifier: Dataset | bytes | None,
    fields: Mapping[str, object],
) -> None:
    """Send one response to `request`; class and instance are repeated from it (PS3.7 9.1 and 10.1).

    Raises:
        AssociationEnded: the peer is gone.
    """
    asked = request.fields
    response: CommandSet = {
        "AffectedSOPClassUID": asked.get("AffectedSOPClassUID") or asked.get("RequestedSOPClassUID"),
        "AffectedSOPInstanceUID": asked.get("AffectedSOPInstanceUID") or asked.get("RequestedSOPInstanceUID"),
        "CommandField": asked["CommandField"] | RESPONSE,
        "MessageIDBeingRespondedTo": asked["MessageID"],
        "EventTypeID": asked.get("EventTypeID"),
        "ActionTypeID": asked.get("ActionTypeID"),
        "Status": status,
        **fields,
    }
    if response.get("ErrorComment"):
        response["ErrorComment"] = str(response["ErrorComment"])[:_LONGEST_COMMENT]
    if isinstance(identifier, Dataset):
        identifier = encode_identifier(identifier, context.accepted.transfer_syntax)
    association.send(context.accepted.context_id, response, io.BytesIO(identifier) if identifier else None)
