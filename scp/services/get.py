"""C-GET: instances are stored at the requester on the association it asked on (PS3.4 C.4.3).

Unknown entities are no failure of the Standard's: the answer is 0x0000 with counters of zero, and one log line.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from config.settings import DicomSettings
from scp.administration import Current
from scp.attachments import AttachmentFiles
from scp.orthanc_client import OrthancClient, OrthancError
from scp.query.character_set import python_encoding
from scp.query.model import ROOTS, root_of
from scp.request import Request, Service
from scp.retrieve.read_ahead import Announcements, EncodedInstance, InstanceReader
from scp.retrieve.selection import select_instances
from scp.retrieve.sub_operations import SubOperations
from scp.retrieve.transfer_syntax import TransferSyntaxes
from scp.statuses import CANNOT_UNDERSTAND, Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GetService:
    """Serves C-GET requests; one for all threads of the worker."""

    settings: Current
    client: OrthancClient
    files: AttachmentFiles | None = None  # None: every file comes from Orthanc

    def service(self) -> Service:
        sop_classes = tuple(root.get for root in ROOTS)
        return Service("C-GET", "C_GET", "allow_get", sop_classes, self.serve, negotiate_relational)

    def serve(self, request: Request) -> None:
        with Announcements(self.files) as announce:
            self._serve(request, self.settings(), announce)

    def _serve(self, request: Request, settings: DicomSettings, announce: Announcements) -> None:
        try:
            root = root_of(request.context.abstract_syntax)
            encoding = python_encoding(settings.default_encoding)
            strict = settings.strict_hierarchy and request.extended_negotiation[:1] != RELATIONAL
            instances = select_instances(
                self.client, request.identifier(), root, encoding, strict=strict, announce=announce
            )
        except (Refusal, OrthancError) as error:
            refuse(request, "get", error)
            return
        modality = request.peer.modality
        may_transcode = settings.transcode_dicom_protocol and (modality is None or modality.allow_transcoding)
        syntaxes = TransferSyntaxes(settings.scu_preferred_transfer_syntax, may_transcode=may_transcode)
        reader = InstanceReader(self.client, self.files, announce, syntaxes, request.storable_transfer_syntaxes)

        def send(encoded: EncodedInstance) -> int:
            return request.store(
                encoded.data_set, encoded.sop_class_uid, encoded.sop_instance_uid, encoded.transfer_syntax
            )

        operations = SubOperations(request, len(instances))
        operations.run(instances, reader, send)
        log_end(request, "get", operations.finish(), len(instances), operations.failed)


RELATIONAL: Final = b"\1"  # PS3.4 C.5.2.1, byte 1


def negotiate_relational(offered: bytes) -> bytes:
    """Relational retrieval is supported, byte 1; enhanced multi-frame conversion is not (PS3.4 C.5.2.1)."""
    return bytes(min(ours, theirs) for ours, theirs in zip(b"\1\0", offered, strict=False))


def refuse(request: Request, service: str, error: Refusal | OrthancError) -> None:
    """Answer a retrieve request that cannot begin, with one log line."""
    refusal = error if isinstance(error, Refusal) else Refusal(CANNOT_UNDERSTAND, "the archive cannot be searched")
    log.warning(
        "%s_refused status=0x%04X calling_ae_title=%r address=%s reason=%s",
        service,
        refusal.status,
        request.peer.calling_ae_title,
        request.peer.address,
        error,
    )
    request.respond(refusal.status, ErrorComment=refusal.comment)


def log_end(request: Request, service: str, status: int, instances: int, failed: int) -> None:
    """One line at the end of each retrieve request."""
    log.info(
        "%s_finished status=0x%04X calling_ae_title=%r address=%s instances=%d failed=%d",
        service,
        status,
        request.peer.calling_ae_title,
        request.peer.address,
        instances,
        failed,
    )
