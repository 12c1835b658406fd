"""`python -m scp`: an SCP worker, started by the plugin (see `config.child_process`)."""

from __future__ import annotations

import scp.without_numpy  # noqa: F401 -- for what it does

# isort: split

import logging
import os
from collections.abc import Iterable
from typing import Any

from config.child_process import ParentLine
from config.folder_format import UnusableFormat, adopt_worker_folders
from config.logging_setup import set_up_logging
from config.settings import Settings
from scp.modalities import Fetch
from scp.orthanc_client import OrthancClient
from scp.request import Service
from scp.services import build_services
from scp.worker import CannotStart, Worker


def _services(settings: Settings, launch: dict[str, Any]) -> tuple[Iterable[Service], Fetch]:
    adopt_worker_folders(settings.storage.spool_directory)
    workers = settings.dicom.processes if settings.dicom else 1
    client = OrthancClient(settings.orthanc, launch.get("Token", ""), workers)
    return build_services(settings, client), client.modalities


def main() -> None:
    """Serve until the parent ends this process or it has drained."""
    line = ParentLine()
    try:
        launch = line.launch_message()
        set_up_logging(f"scp-{launch['Worker']}")
        worker = Worker(launch, line, _services)
    except EOFError:
        return
    except (CannotStart, UnusableFormat) as refusal:
        line.refuse(str(refusal))
    worker.run()
    logging.shutdown()
    os._exit(0)  # operations that outlived the drain may still hold threads


if __name__ == "__main__":
    main()
