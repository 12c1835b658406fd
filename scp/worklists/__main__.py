"""`python -m scp.worklists`: the process that makes, changes and removes entries of the managed worklist.

The plugin starts it and sends `{"Settings": …, "Listener": descriptor}`; see `config.child_process`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import warnings
from datetime import date
from typing import Final

from config.child_process import ParentLine
from config.logging_setup import set_up_logging
from config.settings import ScpSettings
from scp.worklists.api import Api
from scp.worklists.database import DatabaseUnusable
from scp.worklists.server import Server
from scp.worklists.store import StoreUnavailable, WorklistStore

log = logging.getLogger(__name__)

_REPORT_INTERVAL: Final = 1.0  # seconds
_HOUSEKEEPING_INTERVAL: Final = 600.0


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
    settings = ScpSettings.model_validate(message["Settings"]).worklists
    assert settings.managed_directory is not None  # noqa: S101 - for the type checker
    try:
        store = WorklistStore(settings.managed_directory)
    except DatabaseUnusable as error:
        line.refuse(f"Isen.Worklists.ManagedDirectory: {error}")
    Server(socket.socket(fileno=message["Listener"]), Api(store, settings.default_station_ae_title).answer).start()
    line.ready()
    _serve(line, store, settings.retention_days)


def _serve(line: ParentLine, store: WorklistStore, retention_days: int) -> None:
    due = time.monotonic()
    while True:
        if retention_days and time.monotonic() >= due:
            due = time.monotonic() + _HOUSEKEEPING_INTERVAL
            _remove_old(store, date.today().toordinal() - retention_days)  # noqa: DTZ011 - the wards' own date
        line.report({"Entries": store.count()})
        time.sleep(_REPORT_INTERVAL)


def _remove_old(store: WorklistStore, day: int) -> None:
    try:
        with store.transaction() as changes:
            removed = changes.remove_before(day)
    except StoreUnavailable as error:
        log.warning("worklist_housekeeping_failed reason=%r", str(error))
        return
    if removed:
        log.info("worklist_entries_expired count=%d", removed)


if __name__ == "__main__":
    main()
