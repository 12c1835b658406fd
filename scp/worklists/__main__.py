"""`python -m scp.worklists`: the process that makes, changes and removes entries of the managed worklist, and files of
steps whose study has arrived.

The plugin starts it and sends `{"Settings": …, "Listener": descriptor, "Token": …}`; see `config.child_process`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from typing import Final

from config.child_process import ParentLine
from config.logging_setup import set_up_logging
from config.settings import DicomSettings, ScpSettings, WorklistSettings
from scp.durable_folder import DurableFolder
from scp.orthanc_client import OrthancClient
from scp.query.character_set import python_encoding
from scp.upper_layer.limits import Limits
from scp.worklist_sources.folder import WorklistFolder
from scp.worklists.api import Api
from scp.worklists.database import DatabaseUnusable
from scp.worklists.housekeeping import Housekeeper
from scp.worklists.server import Server
from scp.worklists.stable_studies import StableStudies
from scp.worklists.store import WorklistStore

log = logging.getLogger(__name__)

_REPORT_INTERVAL: Final = 1.0  # seconds


def main() -> None:
    """Run until the parent ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which stops us in order
    line = ParentLine()
    set_up_logging("worklists")
    message = line.launch_message()
    # every answer is durable before it is sent, so there is nothing to finish
    line.watch(on_command=lambda _: None, on_end=lambda: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    warnings.simplefilter("ignore")  # pydicom's quote values
    settings = ScpSettings.model_validate(message["Settings"])
    try:
        store = _store(settings.worklists)
    except DatabaseUnusable as error:
        line.refuse(f"Isen.Worklists.ManagedDirectory: {error}")
    if store:
        worklists = settings.worklists
        api = Api(store, worklists.default_station_ae_title, make_study=worklists.set_study_instance_uid_if_missing)
        Server(socket.socket(fileno=message["Listener"]), api.answer).start()
    line.ready()
    threading.Thread(
        target=_keep_house, args=(settings, store, message["Token"]), name="housekeeping", daemon=True
    ).start()
    while True:
        line.report({"Entries": store.count()} if store else {})
        time.sleep(_REPORT_INTERVAL)


def _store(settings: WorklistSettings) -> WorklistStore | None:
    return WorklistStore(settings.managed_directory) if settings.managed_directory else None


def _keep_house(settings: ScpSettings, store: WorklistStore | None, token: str) -> None:
    worklists = settings.worklists
    folder = studies = None
    if worklists.delete_worklists_on_stable_study:
        client = OrthancClient(settings.orthanc, token)
        studies = StableStudies(client, DurableFolder(settings.directory / "worklists", "state"))
        if worklists.directory:
            dicom = settings.dicom or DicomSettings()
            folder = WorklistFolder(
                worklists.directory, Limits.of(dicom), lambda: python_encoding(dicom.default_encoding)
            )
    housekeeper = Housekeeper(worklists, store, folder, studies)
    while True:
        try:
            housekeeper.run_once()
        except Exception as error:  # noqa: BLE001 - it is tried again; its text may hold a value
            log.error("worklist_housekeeping_failed exception=%s", type(error).__name__)  # noqa: TRY400 - one line
        time.sleep(worklists.housekeeping_interval)


if __name__ == "__main__":
    main()
