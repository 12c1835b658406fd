"""The DIMSE services a worker offers: one module each, and the table that lists them."""

from __future__ import annotations

from config.settings import DicomSettings, ScpSettings
from scp.administration import Current
from scp.attachments import AttachmentFiles
from scp.origins import Origins
from scp.orthanc_client import OrthancClient
from scp.query.private_dictionary import private_vrs
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
    return (
        ECHO,
        StoreService(client, origins.note).service(),
        FindService(current, client, private_vrs(settings.orthanc.dictionary)).service(),
        MoveService(current, client, connector(dicom), files).service(),
        GetService(current, client, files).service(),
        *([worklist] if worklist else []),
        *build_storage_commitment(settings, client),
        *build_performed_procedure(settings, client),
    )
