"""C-MOVE: instances are stored at a third AE, one of `DicomModalities` (PS3.4 C.4.2).

The destination is looked up in the modalities Orthanc knows at this moment; no address ever comes from the request.
Unknown entities are no failure of the Standard's: the answer is 0x0000 with counters of zero, and one log line.

With `SynchronousCMove: false` the request is answered at once and becomes a job of Orthanc's job engine, as with
Orthanc: the counters then say what was submitted, not what arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from config.settings import DicomSettings, Modality
from scp.administration import Current
from scp.attachments import AttachmentFiles
from scp.orthanc_client import OrthancClient, OrthancError
from scp.query.character_set import python_encoding
from scp.query.model import ROOTS, root_of
from scp.request import Request, Service
from scp.retrieve.destination import Connect, Destination
from scp.retrieve.read_ahead import ANNOUNCED, Announcements, InstanceReader
from scp.retrieve.selection import Instance, select_instances
from scp.retrieve.sub_operations import SubOperations
from scp.retrieve.transfer_syntax import TransferSyntaxes
from scp.services.get import RELATIONAL, log_end, negotiate_relational, refuse
from scp.statuses import MOVE_DESTINATION_UNKNOWN, SUCCESS, Refusal
from scp.store_association import AssociationRefused, MoveOriginator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MoveService:
    """Serves C-MOVE requests; one for all threads of the worker."""

    settings: Current
    client: OrthancClient
    connect: Connect
    files: AttachmentFiles | None = None  # None: every file comes from Orthanc

    def service(self) -> Service:
        sop_classes = tuple(root.move for root in ROOTS)
        return Service("C-MOVE", "C_MOVE", "allow_move", sop_classes, self.serve, negotiate_relational)

    def serve(self, request: Request) -> None:
        settings = self.settings()
        with Announcements(self.files if settings.synchronous_c_move else None) as announce:
            self._serve(request, settings, announce)

    def _serve(self, request: Request, settings: DicomSettings, announce: Announcements) -> None:
        try:
            modality = self._destination(str(request.message.MoveDestination or "").strip())
            root = root_of(request.context.abstract_syntax)
            encoding = python_encoding(settings.default_encoding)
            strict = settings.strict_hierarchy and request.extended_negotiation[:1] != RELATIONAL
            instances = select_instances(
                self.client, request.identifier(), root, encoding, strict=strict, announce=announce
            )
            if not settings.synchronous_c_move:
                self._submit(request, modality, instances)
                return
        except (Refusal, OrthancError) as error:
            refuse(request, "move", error)
            return
        operations = SubOperations(request, len(instances))
        self._send(request, modality, instances, announce, operations)
        log_end(request, "move", operations.finish(), len(instances), operations.failed)

    def _destination(self, ae_title: str) -> Modality:
        """The modality with this AE title.

        Raises:
            Refusal: 0xA801, there is none.
        """
        strict = self.settings().strict_aet_comparison
        for modality in self.client.modalities():
            known = modality.ae_title.strip()
            if known == ae_title or (not strict and known.upper() == ae_title.upper()):
                return modality
        raise Refusal(MOVE_DESTINATION_UNKNOWN, "the move destination is not in DicomModalities")

    def _send(
        self,
        request: Request,
        modality: Modality,
        instances: Sequence[Instance],
        announce: Announcements,
        operations: SubOperations,
    ) -> None:
        settings = self.settings()
        may_transcode = settings.transcode_dicom_protocol and modality.allow_transcoding
        syntaxes = TransferSyntaxes(settings.scu_preferred_transfer_syntax, may_transcode=may_transcode)
        message = request.message
        originator = MoveOriginator(request.peer.calling_ae_title, int(message.MessageID), int(message.Priority))
        for group, contexts in syntaxes.contexts(instances):
            if request.is_cancelled:
                return
            announce(group[:ANNOUNCED])  # they come from S3 while the association is opened
            destination = Destination(self.connect, modality, contexts, originator)
            try:
                destination.open()
            except AssociationRefused as error:
                log.warning("move_destination_failed destination=%r reason=%s", modality.ae_title, error)
                operations.fail(group, str(error))
                continue
            with destination:
                accepted = destination.accepted_transfer_syntaxes
                reader = InstanceReader(self.client, self.files, announce, syntaxes, accepted)
                operations.run(group, reader, destination.send)

    def _submit(self, request: Request, modality: Modality, instances: Sequence[Instance]) -> None:
        self.client.submit_store_job(
            modality.name,
            [instance.orthanc_id for instance in instances],
            modality.local_ae_title or self.settings().ae_title,
            request.peer.calling_ae_title,
            int(request.message.MessageID),
        )
        request.respond(
            SUCCESS,
            NumberOfCompletedSuboperations=len(instances),
            NumberOfFailedSuboperations=0,
            NumberOfWarningSuboperations=0,
        )
        log_end(request, "move", SUCCESS, len(instances), 0)
