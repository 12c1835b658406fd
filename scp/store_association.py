"""An association we open to send instances, C-MOVE's outgoing side, or reports: event-driven, bounded, TCP_NODELAY.

    with open_association("10.0.0.7", 104, "ISEN", "VIEWER", [(CTImageStorage, [JPEGBaseline8Bit])]) as association:
        status = association.store(encoded, CTImageStorage, instance_uid, JPEGBaseline8Bit, originator)

Not thread-safe: one thread uses an association at a time; open several to send in parallel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Final, Self

from config.settings import DicomSettings, TlsSettings
from scp.outgoing_connection import AssociationRefused, connect, negotiate
from scp.statuses import MEDIUM, NoSuitableContext
from scp.upper_layer.associate import ContextProposal
from scp.upper_layer.associate_requestor import (
    AssociateAccept,
    encode_associate_request,
)
from scp.upper_layer.command_set import CommandSet
from scp.upper_layer.errors import AssociationEnded, ProtocolViolation
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import MessageReader, send_message
from scp.upper_layer.pdu_stream import (
    A_RELEASE_RP,
    P_DATA_TF,
    RELEASE_RQ_PDU,
    PduStream,
    abort_pdu,
)
from scp.upper_layer.transport import Transport, deadline_in

ProposedContext = tuple[str, Sequence[str]]  # abstract syntax, transfer syntaxes in order of preference

__all__ = ["AssociationRefused", "MoveOriginator", "ProposedContext", "StoreAssociation", "open_association"]

_C_STORE_RQ: Final = 0x0001
_N_SET_RQ: Final = 0x0120
_N_CREATE_RQ: Final = 0x0140
_N_EVENT_REPORT_RQ: Final = 0x0100
_SERVICE_USER: Final = 0  # source of an A-ABORT
_GOODBYE_TIMEOUT: Final = 2.0  # seconds for A-RELEASE-RP
_LONGEST_ATTRIBUTE_LIST: Final = 4 * 1024 * 1024  # bytes


class _Discarded:
    """Takes a data set that nobody needs, up to a length."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write(self, fragment: memoryview) -> None:
        self._room -= len(fragment)
        if self._room < 0:
            raise ProtocolViolation("data_set_length")


@dataclass(frozen=True)
class MoveOriginator:
    """Who asked for the C-MOVE this C-STORE belongs to (PS3.7 9.1.1.1.6 and 9.1.1.1.7), and how urgent it is."""

    ae_title: str
    message_id: int
    priority: int = MEDIUM  # PS3.4 C.4.2.3.1: that of the C-MOVE


class StoreAssociation:
    """An established association on which we are the SCU of the Storage service class."""

    def __init__(
        self,
        stream: PduStream,
        limits: Limits,
        accept: AssociateAccept,
        contexts: Sequence[ContextProposal],
        response_timeout: float | None,
    ) -> None:
        self._stream = stream
        self._reader = MessageReader(stream, limits)
        self._maximum_length = accept.maximum_length
        self._timeout = response_timeout
        self._message_id = 0
        self._open = True
        self._contexts: dict[tuple[str, str], int] = {}
        for context in contexts:
            syntax = accept.transfer_syntaxes.get(context.context_id)
            if syntax in context.transfer_syntaxes:
                self._contexts.setdefault((context.abstract_syntax, syntax), context.context_id)

    def accepts(self, sop_class_uid: str, transfer_syntax: str) -> bool:
        """Whether the peer accepted this class with exactly this transfer syntax."""
        return (sop_class_uid, transfer_syntax) in self._contexts

    def accepted_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        """What the peer accepted for this class, in the order of context IDs; empty if nothing."""
        return tuple(syntax for uid, syntax in self._contexts if uid == sop_class_uid)

    def store(
        self,
        encoded: BinaryIO,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        move_originator: MoveOriginator | None = None,
    ) -> int:
        """Send one instance from `encoded`'s position to its end (bare data set) and return the peer's status.

        Raises:
            scp.statuses.NoSuitableContext: not accepted by the peer; nothing was sent.
            scp.upper_layer.AssociationEnded: the peer is gone or did not answer in time; the association is closed,
                and whether the instance arrived is unknown.
        """
        command: CommandSet = {
            "AffectedSOPClassUID": sop_class_uid,
            "CommandField": _C_STORE_RQ,
            "Priority": move_originator.priority if move_originator else MEDIUM,
            "AffectedSOPInstanceUID": sop_instance_uid,
        }
        if move_originator:
            command["MoveOriginatorApplicationEntityTitle"] = move_originator.ae_title
            command["MoveOriginatorMessageID"] = move_originator.message_id
        return int(self._request(sop_class_uid, transfer_syntax, command, encoded)["Status"])

    def create(
        self, sop_class_uid: str, sop_instance_uid: str, attributes: BinaryIO, transfer_syntax: str
    ) -> CommandSet:
        """Send one N-CREATE (PS3.7 10.1.5) and return the peer's response, its Attribute List left out.

        Raises:
            as `store`.
        """
        command: CommandSet = {
            "AffectedSOPClassUID": sop_class_uid,
            "CommandField": _N_CREATE_RQ,
            "AffectedSOPInstanceUID": sop_instance_uid,
        }
        return self._request(sop_class_uid, transfer_syntax, command, attributes)

    def set(self, sop_class_uid: str, sop_instance_uid: str, changes: BinaryIO, transfer_syntax: str) -> CommandSet:
        """Send one N-SET (PS3.7 10.1.3) and return the peer's response, its Attribute List left out.

        Raises:
            as `store`.
        """
        command: CommandSet = {
            "RequestedSOPClassUID": sop_class_uid,
            "CommandField": _N_SET_RQ,
            "RequestedSOPInstanceUID": sop_instance_uid,
        }
        return self._request(sop_class_uid, transfer_syntax, command, changes)

    def report_event(
        self, sop_class_uid: str, sop_instance_uid: str, event_type_id: int, information: BinaryIO, transfer_syntax: str
    ) -> int:
        """Send one N-EVENT-REPORT (PS3.7 10.1.1) and return the peer's status.

        Raises:
            as `store`.
        """
        command: CommandSet = {
            "AffectedSOPClassUID": sop_class_uid,
            "CommandField": _N_EVENT_REPORT_RQ,
            "AffectedSOPInstanceUID": sop_instance_uid,
            "EventTypeID": event_type_id,
        }
        return int(self._request(sop_class_uid, transfer_syntax, command, information)["Status"])

    def _request(
        self, abstract_syntax: str, transfer_syntax: str, command: CommandSet, data_set: BinaryIO
    ) -> CommandSet:
        context_id = self._contexts.get((abstract_syntax, transfer_syntax))
        if context_id is None:
            raise NoSuitableContext(f"{abstract_syntax} in {transfer_syntax}")
        self._message_id = self._message_id % 0xFFFF + 1
        try:
            send_message(
                self._stream,
                context_id,
                {**command, "MessageID": self._message_id},
                data_set,
                peer_maximum_length=self._maximum_length,
                timeout=self._timeout,
            )
            return self._response(may_bring_data=command["CommandField"] != _C_STORE_RQ)
        except BaseException:  # also when `data_set` failed in the middle: the peer waits for the rest
            self._say_abort()
            self._close()
            raise

    def release(self) -> None:
        """Release in order and close; a peer that does not answer is left. Never raises."""
        with contextlib.suppress(AssociationEnded):
            if self._open:
                self._stream.send([RELEASE_RQ_PDU], _GOODBYE_TIMEOUT)
                deadline = time.monotonic() + _GOODBYE_TIMEOUT
                kind, length = self._stream.read_header(_GOODBYE_TIMEOUT)
                while kind == P_DATA_TF and time.monotonic() < deadline:  # late, nobody waits for it any more
                    for _ in self._stream.chunks(length):
                        if time.monotonic() > deadline:
                            raise AssociationEnded("timeout")
                    kind, length = self._stream.read_header(_GOODBYE_TIMEOUT)
                if kind != A_RELEASE_RP:
                    self._stream.send([abort_pdu(_SERVICE_USER, 0)], _GOODBYE_TIMEOUT)
        self._close()

    def abort(self) -> None:
        """End it at once, from any thread; a `store` under way raises AssociationEnded. Never raises."""
        if self._open:
            self._stream.transport.interrupt(abort_pdu(_SERVICE_USER, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release, or abort when an exception passes."""
        if error is None:
            self.release()
        else:
            self.abort()
            self._close()

    def _say_abort(self) -> None:
        with contextlib.suppress(AssociationEnded):
            if self._open:
                self._stream.send([abort_pdu(_SERVICE_USER, 0)], 0)

    def _response(self, *, may_bring_data: bool) -> CommandSet:
        """The response's command set; an Attribute List or an Event Reply is read and dropped."""
        response = self._reader.read_command(self._timeout)
        fields = response.fields
        if fields.get("MessageIDBeingRespondedTo") != self._message_id or "Status" not in fields:
            raise ProtocolViolation("unexpected_message")
        if response.has_data_set:
            if not may_bring_data:
                raise ProtocolViolation("unexpected_data_set")
            self._reader.read_data_set(response, _Discarded(_LONGEST_ATTRIBUTE_LIST))
        return fields

    def _close(self) -> None:
        self._open = False
        self._stream.transport.close()


def open_association(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    contexts: Sequence[ProposedContext],
    *,
    tls: TlsSettings | None = None,
    connect_timeout: float | None = 10.0,
    response_timeout: float | None = 60.0,
    maximum_pdu_length: int = 131072,
    as_scp: bool = False,
) -> StoreAssociation:
    """Connect, and TLS if asked, and negotiate; at most 128 contexts (PS3.8 9.3.2.2).

    `as_scp` proposes that we are the SCP of the classes and the peer their SCU, not the other way round.

    `connect_timeout` (seconds, None = for ever) bounds connecting, TLS handshake and negotiation together;
    `response_timeout` bounds the wait for each DIMSE response and each pause of the peer while we send.

    Raises:
        AssociationRefused: unreachable, TLS failed, rejected, or none of the contexts was accepted.
    """
    proposals = [
        ContextProposal(2 * number + 1, sop_class_uid, tuple(syntaxes))
        for number, (sop_class_uid, syntaxes) in enumerate(contexts)
    ]
    deadline = deadline_in(connect_timeout)
    request = encode_associate_request(calling_ae_title, called_ae_title, proposals, maximum_pdu_length, as_scp=as_scp)
    limits = dataclasses.replace(_default_limits(), maximum_pdu_length=maximum_pdu_length)
    stream = PduStream(Transport(connect(host, port, tls, deadline)), pdu_timeout=limits.pdu_timeout)
    try:
        accept = negotiate(stream, request, deadline)
    except AssociationEnded as ended:
        stream.transport.close()
        raise AssociationRefused(f"no answer to the association request: {ended}") from ended
    except BaseException:
        stream.transport.close()
        raise
    association = StoreAssociation(stream, limits, accept, proposals, response_timeout)
    if not accept.transfer_syntaxes:
        association.release()
        raise AssociationRefused("the peer accepted none of the presentation contexts")
    return association


@functools.cache
def _default_limits() -> Limits:
    return Limits.of(DicomSettings())
