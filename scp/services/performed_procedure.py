"""Modality Performed Procedure Step (PS3.4 F.7) as SCP: N-CREATE and N-SET.

0x0000  on stable storage
0x0106  a value that is not allowed, or not one at all
0x0107  N-SET: done, but attributes that it may not change were left as they are
0x0110  N-SET in a final state, with Error ID 0xA710
0x0111  N-CREATE: the SOP instance exists
0x0112  N-SET: there is no such SOP instance
0x0117  the SOP Instance UID is no UID
0x0120  a required attribute is missing
0x0121  a required attribute is empty
0x0124  the peer may not use the worklist (AllowFindWorklist)
0x0213  the disk is full
"""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from pydicom.dataset import Dataset

from config.settings import DicomSettings, ScpSettings
from scp.administration import modalities_of
from scp.orthanc_client import OrthancClient
from scp.performed_procedure.forwarder import PERFORMED_PROCEDURE_STEP, Forwarder, connector_to
from scp.performed_procedure.forwarding import N_CREATE, N_SET, Forwarding, Message
from scp.performed_procedure.reported import ReportedSteps
from scp.performed_procedure.rules import NoLongerUpdated, created, in_utf_8, updated
from scp.performed_procedure.store import PerformedProcedureSteps, StoredStep, now
from scp.performed_procedure.worklist_link import WorklistLink
from scp.request import Request, Service
from scp.retrieve.destination import connector
from scp.statuses import (
    ATTRIBUTE_LIST_ERROR,
    INVALID_OBJECT_INSTANCE,
    NO_SUCH_SOP_INSTANCE,
    SUCCESS,
    Refusal,
)

log = logging.getLogger(__name__)

_SOP_CLASSES: Final = (PERFORMED_PROCEDURE_STEP,)
_PERMISSION: Final = "allow_find_worklist"  # Orthanc has no flag for MPPS: who gets the list may report on it
_UID: Final = re.compile(r"[0-9.]{1,64}")
_HOUSEKEEPING: Final = 3600.0  # seconds


@dataclass(frozen=True)
class PerformedProcedureService:
    """Serves both operations; one for all threads of the worker."""

    steps: PerformedProcedureSteps
    link: WorklistLink
    forwards: bool = False  # to ForwardPerformedProcedureSteps

    def services(self) -> tuple[Service, ...]:
        return (
            Service("N-CREATE MPPS", "N_CREATE", _PERMISSION, _SOP_CLASSES, self.create),
            Service("N-SET MPPS", "N_SET", _PERMISSION, _SOP_CLASSES, self.set),
        )

    def create(self, request: Request) -> None:
        """N-CREATE. The SOP Instance UID is the modality's, or ours if it leaves that to us (PS3.7 10.1.5.1.4)."""
        uid = _checked(str(request.message.AffectedSOPInstanceUID or f"2.25.{uuid4().int}"))
        attributes = created(request.identifier())
        forwarding = Forwarding((Message(N_CREATE, attributes, time.time()),)) if self.forwards else None
        with self.steps.changing():
            self.steps.create(StoredStep(uid, request.peer.calling_ae_title, now(), attributes, forwarding=forwarding))
            self.link.tell(attributes)
        request.respond(SUCCESS, AffectedSOPInstanceUID=uid)

    def set(self, request: Request) -> None:
        """N-SET."""
        uid = _checked(str(request.message.RequestedSOPInstanceUID or ""))
        changes = request.identifier()
        try:
            is_complete = self._change(uid, changes)
        except NoLongerUpdated as refusal:
            log.warning("mpps_is_final calling_ae_title=%r", request.peer.calling_ae_title)
            request.respond(refusal.status, ErrorComment=refusal.comment, ErrorID=refusal.error_id)
        else:
            request.respond(SUCCESS if is_complete else ATTRIBUTE_LIST_ERROR)

    def _change(self, uid: str, changes: Dataset) -> bool:
        with self.steps.changing():
            step = self.steps.get(uid)
            if step is None:
                raise Refusal(NO_SUCH_SOP_INSTANCE, "there is no such performed procedure step")
            changes = in_utf_8(changes)
            attributes, is_complete = updated(step.attributes, changes)
            forwarding = step.forwarding
            if forwarding is not None:  # also what was not taken here: the other system may know better
                forwarding = forwarding.with_message(Message(N_SET, changes, time.time()))
            self.steps.replace(replace(step, attributes=attributes, changed_at=now(), forwarding=forwarding))
            self.link.tell(attributes)  # in here, so that the worklist hears of changes in their order
        return is_complete


def build_performed_procedure(settings: ScpSettings, client: OrthancClient) -> tuple[Service, ...]:
    """Both operations, a thread that forgets old steps, and one that forwards them."""
    dicom = settings.dicom or DicomSettings()
    worklists = settings.worklists
    folder = settings.directory / "mpps"  # the plugin reads it: mpps_routes
    steps = PerformedProcedureSteps(folder)
    reported = ReportedSteps(folder) if worklists.directory else None
    link = WorklistLink(worklists.managed_directory, worklists.default_station_ae_title, reported)
    age = dicom.performed_procedure_step_days * 86400.0
    threading.Thread(target=_keep_house, args=(steps, reported, age), name="mpps", daemon=True).start()
    target = dicom.forward_performed_procedure_steps
    if target:
        peer = connector_to(target, modalities_of(settings, client), connector(dicom))
        Forwarder(steps, peer, dicom.default_encoding, age).start()
    return PerformedProcedureService(steps, link, forwards=bool(target)).services()


def _keep_house(steps: PerformedProcedureSteps, reported: ReportedSteps | None, age: float) -> None:
    while True:
        if reported:
            reported.forget_before(time.time() - age)
        forgotten = steps.forget_before(time.time() - age)
        if forgotten:
            log.info("mpps_forgotten count=%d", forgotten)
        time.sleep(_HOUSEKEEPING)


def _checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise Refusal(INVALID_OBJECT_INSTANCE, "the SOP Instance UID is no UID")
    return uid
