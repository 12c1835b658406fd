"""Forwards performed procedure steps to another system, as MPPS SCU: what modalities sent, in its order, until it is
taken or refused for good.

The modality's answer does not depend on it. One worker, whichever has the lock, sends; an association that is lost, a
peer that is away or has no room now are tried again with growing pauses. A message whose answer was lost is repeated;
that the peer then says that it knows the step (0x0111), or that it is final (0xA710), is the answer that was lost.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import Modality
from scp.orthanc_client import OrthancError
from scp.performed_procedure.forwarding import N_CREATE, Forwarding, Message
from scp.performed_procedure.rules import NoLongerUpdated
from scp.performed_procedure.store import PerformedProcedureSteps
from scp.query.character_set import set_character_set
from scp.retrieve.destination import Connect
from scp.statuses import (
    ATTRIBUTE_LIST_ERROR,
    CLASS_INSTANCE_CONFLICT,
    DUPLICATE_SOP_INSTANCE,
    INVALID_ARGUMENT_VALUE,
    INVALID_ATTRIBUTE_VALUE,
    INVALID_OBJECT_INSTANCE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    NO_SUCH_SOP_INSTANCE,
    SUCCESS,
)
from scp.store_association import AssociationRefused, StoreAssociation
from scp.upper_layer import AssociationEnded
from scp.upper_layer.identifier import encode_identifier

log = logging.getLogger(__name__)

PERFORMED_PROCEDURE_STEP: Final = UID("1.2.840.10008.3.1.2.3.3")
_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_INTERVAL: Final = 0.5  # seconds between two looks at what is to be sent
_FIRST_PAUSE: Final = 2.0  # seconds in which a peer that was away is left alone; doubles
_LONGEST_PAUSE: Final = 300.0
_VALUE_OUT_OF_RANGE: Final = 0x0116
_NO_SUCH_ATTRIBUTE: Final = 0x0105
_TAKEN: Final = (SUCCESS, 0x0001, ATTRIBUTE_LIST_ERROR, _VALUE_OUT_OF_RANGE)  # PS3.7 Annex C: warnings are
_FOR_GOOD: Final = frozenset({  # the message itself is wrong to the peer: it will be so the next time too
    _NO_SUCH_ATTRIBUTE, INVALID_ATTRIBUTE_VALUE, DUPLICATE_SOP_INSTANCE, NO_SUCH_SOP_INSTANCE, INVALID_ARGUMENT_VALUE,
    INVALID_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT, MISSING_ATTRIBUTE, MISSING_ATTRIBUTE_VALUE,
})  # fmt: skip


class Forwarder:
    """One thread of each worker; only one of them works at a time."""

    def __init__(
        self,
        steps: PerformedProcedureSteps,
        connect: Callable[[], StoreAssociation],
        default_encoding: str,
        patience: float,
    ) -> None:
        """`connect` raises AssociationRefused; `patience`: seconds that a message is tried."""
        self._steps = steps
        self._connect = connect
        self._default_encoding = default_encoding
        self._patience = patience
        self._away_until = 0.0  # monotonic
        self._pause = _FIRST_PAUSE / 2

    def start(self) -> None:
        """Forward what is to be forwarded, once no other worker does."""
        threading.Thread(target=self._run, name="mpps-forward", daemon=True).start()

    def run_once(self) -> None:
        """Send what is due."""
        if time.monotonic() < self._away_until:
            return  # before anything is read: a peer that is away for long is owed a lot
        now = time.time()
        due = [name for name in self._steps.outgoing() if self._is_due(name, now)]
        if not due:
            return
        try:
            with self._connect() as association:
                for name in due:
                    while self._send_first(association, name):
                        pass
        except (AssociationRefused, AssociationEnded, OrthancError) as error:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            self._away_until = time.monotonic() + self._pause
            log.warning("mpps_forward_postponed steps=%d seconds=%d reason=%r", len(due), self._pause, str(error))
            self._give_up_old(due)
        else:
            self._pause = _FIRST_PAUSE / 2

    def _run(self) -> None:
        with self._steps.turn():
            while True:
                try:
                    self.run_once()
                except Exception as error:  # noqa: BLE001 - it is tried again; its text may hold a value
                    log.error("mpps_forward_failed exception=%s", type(error).__name__)  # noqa: TRY400 - one line
                time.sleep(_INTERVAL)

    def _is_due(self, name: str, now: float) -> bool:
        first = self._first(name)
        return first is not None and first[1].next_attempt <= now

    def _first(self, name: str) -> tuple[str, Forwarding] | None:
        """SOP Instance UID and what is to be told of the step; None, and nothing owed any more, if it is nothing."""
        step = self._steps.named(name)
        if step is not None and step.forwarding is not None and step.forwarding.pending:
            return step.sop_instance_uid, step.forwarding
        self._steps.settle(name, lambda forwarding: forwarding)
        return None

    def _send_first(self, association: StoreAssociation, name: str) -> bool:
        """Send the first message of a step; whether it is done with and there may be another.

        Raises:
            AssociationEnded: it may or may not have been taken.
        """
        first = self._first(name)
        if first is None:
            return False
        uid, forwarding = first
        message = forwarding.pending[0]
        try:
            response = self._exchange(association, uid, message)
        except AssociationEnded as ended:
            reason = str(ended)
            self._steps.settle(name, lambda now: now.postponed(reason))
            raise
        status = int(response["Status"])
        if _is_taken(message, forwarding, response):
            log.info("mpps_forwarded operation=%s status=0x%04X step=%s", message.operation, status, name)
            self._steps.settle(name, Forwarding.delivered)
            return True
        reason = f"{message.operation}: status 0x{status:04X}"  # the peer's comment may hold values
        if status in _FOR_GOOD or response.get("ErrorID") == NoLongerUpdated.error_id or self._is_old(message):
            log.error("mpps_forward_refused operation=%s status=0x%04X step=%s", message.operation, status, name)
            self._steps.settle(name, lambda now: now.refused(reason))
            return True
        log.warning("mpps_forward_postponed operation=%s status=0x%04X step=%s", message.operation, status, name)
        self._steps.settle(name, lambda now: now.postponed(reason))
        return False

    def _exchange(self, association: StoreAssociation, uid: str, message: Message) -> dict[str, Any]:
        attributes = Dataset()
        attributes.update(message.attributes)
        set_character_set(attributes, self._default_encoding)
        (syntax, *_) = association.accepted_transfer_syntaxes(PERFORMED_PROCEDURE_STEP)
        encoded = io.BytesIO(encode_identifier(attributes, UID(syntax)))
        send = association.create if message.operation == N_CREATE else association.set
        return send(PERFORMED_PROCEDURE_STEP, uid, encoded, syntax)

    def _give_up_old(self, names: list[str]) -> None:
        for name in names:
            first = self._first(name)
            if first and self._is_old(first[1].pending[0]):
                log.error("mpps_forward_given_up step=%s", name)
                self._steps.settle(name, lambda now: now.refused("the other system was away for too long"))

    def _is_old(self, message: Message) -> bool:
        return time.time() - message.received_at > self._patience


def _is_taken(message: Message, forwarding: Forwarding, response: dict[str, Any]) -> bool:
    status = int(response["Status"])
    if status in _TAKEN or status >> 12 == 0xB:
        return True
    if message.operation == N_CREATE:
        return status == DUPLICATE_SOP_INSTANCE
    return forwarding.attempts > 0 and response.get("ErrorID") == NoLongerUpdated.error_id


def connector_to(
    name: str, modalities: Callable[[], Sequence[Modality]], connect: Connect
) -> Callable[[], StoreAssociation]:
    """How to reach the modality of this name in DicomModalities, which may be changed at any time."""

    def open_it() -> StoreAssociation:
        found = next((one for one in modalities() if one.name == name), None)
        if found is None:
            raise AssociationRefused("the modality is not in DicomModalities")
        return connect(found, [(PERFORMED_PROCEDURE_STEP, _SYNTAXES)])

    return open_it
