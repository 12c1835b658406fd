"""The DIMSE services a worker offers: one module each, and the table that lists them."""

from __future__ import annotations

from config.settings import Acknowledge, DicomSettings, ScpSettings
from scp.administration import Current
from scp.arrivals import Arrivals
from scp.attachments import AttachmentFiles
from scp.origins import Origins
from scp.orthanc_client import OrthancClient
from scp.query.private_dictionary import private_vrs
from scp.received.hand_over import HandOver
from scp.received.journal import Journal
from scp.request import Service
from scp.retrieve.destination import connector
from scp.services.echo import ECHO
from scp.services.find import FindService
from scp.services.get import GetService
from scp.services.move import MoveService
from scp.services.performed_procedure import build_performed_procedure
from scp.services.storage_commitment import build_storage_commitment
from scp.services.store import StoreService
from scp.services.worklist import build_worklist_service


def build_services(settings: ScpSettings, client: OrthancClient, current: Current) -> tuple[Service, ...]:
    """The services of this worker, ready to serve from any number of threads."""
    dicom = settings.dicom or DicomSettings()
    worklist = build_worklist_service(settings, current)
    files = None if settings.orthanc.servers else AttachmentFiles(settings.directory, settings.storage_structure)
    origins = Origins(settings.directory / "origins", client)
    origins.start()
    received = _received(settings, dicom, client, origins)
    return (
        ECHO,
        StoreService(
            client,
            origins.note,
            received,
            acknowledges_received=dicom.acknowledge is Acknowledge.RECEIVED,
            arrivals=None if settings.orthanc.servers else Arrivals(settings.directory),
        ).service(),
        FindService(current, client, private_vrs(settings.orthanc.dictionary)).service(),
        MoveService(current, client, connector(dicom), files).service(),
        GetService(current, client, files).service(),
        *([worklist] if worklist else []),
        *build_storage_commitment(settings, client, received.journal.is_waiting if received else None),
        *build_performed_procedure(settings, client),
    )


def _received(settings: ScpSettings, dicom: DicomSettings, client: OrthancClient, origins: Origins) -> HandOver | None:
    """The journal of acknowledged instances, at work; None if it is not wanted and holds nothing."""
    directory = settings.directory / "received"
    pending = directory / "pending"
    if dicom.acknowledge is Acknowledge.STORED and not (pending.is_dir() and any(pending.iterdir())):
        return None
    received = HandOver(Journal(directory, dicom.maximum_received_size // dicom.processes), client, origins.note)
    received.start()
    return received
