"""A real SCP worker with services that need no Orthanc: `python -m tests.fakes.sink_worker`."""

from __future__ import annotations

import scp.without_numpy  # noqa: F401 -- for what it does, as the real worker

# isort: split

from collections.abc import Iterable
from typing import Any

from config.child_process import ParentLine
from config.logging_setup import set_up_logging
from config.settings import DicomSettings, ScpSettings
from scp.administration import CurrentSettings
from scp.request import Service
from scp.worker import CannotStart, Worker
from tests.fakes.sink_services import services


def _build(settings: ScpSettings, launch: dict[str, Any]) -> tuple[Iterable[Service], CurrentSettings]:
    return services(discard=bool(launch.get("Discard"))), CurrentSettings(settings.dicom or DicomSettings(), None)


def main() -> None:
    """As `scp.__main__`; `"Discard": true` in the launch message: C-STORE does not even read what it gets."""
    line = ParentLine()
    launch = line.launch_message()
    set_up_logging(f"scp-{launch['Worker']}")
    try:
        worker = Worker(launch, line, _build)
    except CannotStart as refusal:
        line.refuse(str(refusal))
    worker.run()


if __name__ == "__main__":
    main()
