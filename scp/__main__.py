"""`python -m scp`: an SCP worker, started by the plugin (see `config.child_process`).

`python -m scp CONFIGURATION…`: a front end, which starts workers of its own (see `scp.front_end`).
"""

from __future__ import annotations

import scp.without_numpy  # noqa: F401 -- for what it does

# isort: split

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from config.child_process import ParentLine
from config.folder_format import UnusableFormat, adopt_worker_folders
from config.logging_setup import set_up_logging
from config.settings import DicomSettings, ScpSettings
from scp import front_end
from scp.administration import CurrentSettings, administration
from scp.orthanc_client import OrthancClient
from scp.request import Service
from scp.services import build_services
from scp.worker import CannotStart, Worker


def _services(settings: ScpSettings, launch: dict[str, Any]) -> tuple[Iterable[Service], CurrentSettings]:
    adopt_worker_folders(settings.directory)
    dicom = settings.dicom or DicomSettings()
    token, worker = launch.get("Token", ""), launch["Worker"] - 1
    client = OrthancClient(settings.orthanc, token, dicom.processes, worker)
    current = CurrentSettings(dicom, administration(settings, token, worker))
    return build_services(settings, client, current), current


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
    if len(sys.argv) > 1:
        sys.exit(front_end.main(sys.argv[1:]))
    main()
