"""Storage Commitment Push Model (PS3.4 Annex J): N-ACTION as SCP, N-EVENT-REPORT as SCU.

N-ACTION is answered once the request is on stable storage; that means received, not committed (J.3.2.1.3). What is
committed is reported later, on the same association if the peer keeps it and waits, otherwise on one of ours.

    0x0000  the request, or the report, is kept
    0x0112  SOP Instance is not the well-known one
    0x0113  N-EVENT-REPORT: the event type is neither 1 nor 2
    0x0115  Transaction UID, references or failure reasons are missing or malformed
    0x0123  N-ACTION: the action type is not 1
    0x0124  the peer is not in DicomModalities, or may not (AllowStorageCommitment); N-EVENT-REPORT: another AE has
            reported on this transaction
    0x0213  it cannot be kept now; the peer may send it again
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from config.settings import DicomSettings, ScpSettings
from scp.administration import modalities_of
from scp.orthanc_client import OrthancClient
from scp.request import Request, Service
from scp.statuses import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_SOP_INSTANCE,
    NOT_AUTHORIZED,
    RESOURCE_LIMITATION,
    SUCCESS,
    Refusal,
)
from scp.storage_commitment.data_sets import (
    COMPLETED,
    FAILURES_EXIST,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_PUSH_MODEL,
    event_information,
    failures_of,
    references_of,
    transaction_uid_of,
)
from scp.storage_commitment.desk import CommitmentDesk, supported_by
from scp.storage_commitment.received import ReceivedReports
from scp.storage_commitment.reporter import NotDelivered, Reporter
from scp.storage_commitment.transactions import Failures, Transaction, Transactions
from scp.upper_layer import AssociationEnded
from scp.upper_layer.negotiation import STORAGE_SOP_CLASSES

_SOP_CLASSES = (STORAGE_COMMITMENT_PUSH_MODEL,)


@dataclass(frozen=True)
class StorageCommitmentService:
    """Serves requests for commitment; one for all threads of the worker."""

    transactions: Transactions
    desk: CommitmentDesk
    retrieve_ae_title: str

    def service(self) -> Service:
        return Service("N-ACTION storage commitment", "N_ACTION", "allow_n_action", _SOP_CLASSES, self.serve)

    def serve(self, request: Request) -> None:
        name = self.transactions.accept(_transaction(request))
        request.respond(SUCCESS)

        def deliver(transaction: Transaction, failures: Failures) -> None:
            event_type, information = event_information(
                transaction.transaction_uid, transaction.references, failures, self.retrieve_ae_title
            )
            try:
                status = request.report_event(PUSH_MODEL_INSTANCE, event_type, information)
            except AssociationEnded as ended:
                raise NotDelivered(f"on the same association: {ended}") from ended
            if status != SUCCESS:
                raise NotDelivered(f"on the same association: the peer answered 0x{status:04X}")

        self.desk.answer_at_once(name, deliver, request.peer_speaks)


@dataclass(frozen=True)
class CommitmentReportService:
    """Takes the reports on what Orthanc itself has asked for."""

    reports: ReceivedReports

    def service(self) -> Service:
        name = "N-EVENT-REPORT storage commitment"
        return Service(name, "N_EVENT_REPORT", "allow_event_report", _SOP_CLASSES, self.serve)

    def serve(self, request: Request) -> None:
        if request.message.AffectedSOPInstanceUID != PUSH_MODEL_INSTANCE:
            raise Refusal(NO_SUCH_SOP_INSTANCE, "not the storage commitment push model instance")
        event_type = request.message.EventTypeID
        if event_type not in (COMPLETED, FAILURES_EXIST):
            raise Refusal(NO_SUCH_EVENT_TYPE, "event type is neither 1 nor 2")
        event = request.identifier()
        committed = references_of(event, "ReferencedSOPSequence")
        failed = references_of(event, "FailedSOPSequence")
        if not (committed or failed) or bool(failed) != (event_type == FAILURES_EXIST):
            raise Refusal(INVALID_ARGUMENT_VALUE, "the references do not agree with the event type")
        try:
            self.reports.keep(
                transaction_uid_of(event), request.peer.calling_ae_title, committed, failed, failures_of(event)
            )
        except OSError as error:
            raise Refusal(RESOURCE_LIMITATION, "the report cannot be kept") from error
        request.respond(SUCCESS)


def build_storage_commitment(
    settings: ScpSettings, client: OrthancClient, is_on_its_way: Callable[[str], bool] | None = None
) -> tuple[Service, ...]:
    """Both services, and the thread that looks after the requests.

    `is_on_its_way` says of a SOP Instance UID whether Orthanc is still to get an acknowledged instance.
    """
    dicom = settings.dicom or DicomSettings()
    directory = settings.directory / "commitments"  # the plugin reads it too: commitment_routes
    transactions = Transactions(directory)
    desk = CommitmentDesk(
        transactions,
        client,
        Reporter(dicom, modalities_of(settings, client)),
        supports=supported_by(
            [*STORAGE_SOP_CLASSES, *dicom.accepted_sop_classes], any_class=dicom.unknown_sop_class_accepted
        ),
        patience=dicom.commitment_timeout,
        report_patience=dicom.commitment_report_days * 86400.0,
        is_on_its_way=is_on_its_way or (lambda _uid: False),
    )
    desk.start()
    return (
        StorageCommitmentService(transactions, desk, dicom.ae_title).service(),
        CommitmentReportService(ReceivedReports(directory)).service(),
    )


def _transaction(request: Request) -> Transaction:
    """What is asked.

    Raises:
        Refusal: PS3.7 10.1.4.1.10 has the statuses.
    """
    message, peer = request.message, request.peer
    if message.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        raise Refusal(NO_SUCH_SOP_INSTANCE, "not the storage commitment push model instance")
    if message.ActionTypeID != REQUEST_STORAGE_COMMITMENT:
        raise Refusal(NO_SUCH_ACTION, "action type is not 1")
    if peer.modality is None:  # the report needs an address, and only the configuration can give one
        raise Refusal(NOT_AUTHORIZED, "the AE title is not in DicomModalities")
    action = request.identifier()
    references = references_of(action, "ReferencedSOPSequence")
    if not references:
        raise Refusal(INVALID_ARGUMENT_VALUE, "ReferencedSOPSequence is missing or empty")
    return Transaction(
        transaction_uid_of(action),
        references,
        peer.modality.name,
        peer.calling_ae_title,
        peer.called_ae_title,
        time.time(),
    )
