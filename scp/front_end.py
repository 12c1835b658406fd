"""A front end: DICOM workers without an Orthanc on the same machine, for Orthancs elsewhere.

`python -m scp CONFIGURATION…` reads the configuration as Orthanc would, starts the workers and watches them, as the
plugin does. `scp.health` says whether it works. SIGTERM: not ready at once; the workers finish what they have, for
`DrainTimeout` at most. If this process is killed the workers end as well.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from config.child_process import CANNOT_START
from config.children import Child
from config.front_end import LoadedFrontEnd, load_front_end
from config.logging_setup import set_up_logging
from config.orthanc_files import read_files
from config.problems import ConfigurationError
from config.scp_workers import PortTaken, worker_specs
from config.supervisor import CannotStart, Supervisor
from scp.health import HealthServer
from scp.orthanc_client import OrthancClient, OrthancError

log = logging.getLogger(__name__)

_APPLICATION: Final = Path(__file__).resolve().parents[1]
_LOOK_INTERVAL: Final = 2.0  # seconds between two looks at the Orthancs


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; the exit code, 78 if the configuration or the machine does not allow it."""
    parser = argparse.ArgumentParser(prog="python -m scp", description="DICOM front end of Orthancs elsewhere.")
    parser.add_argument("configuration", nargs="+", type=Path, help="files and folders, merged as Orthanc does it")
    paths = parser.parse_args(arguments).configuration
    set_up_logging("front-end")
    try:
        files = read_files(paths, os.environ)
        loaded = load_front_end(files.configuration, paths[0].absolute())
        for doubt in (*files.warnings, *loaded.warnings):
            log.warning("configuration_warning %s", doubt)
        front_end = FrontEnd(loaded)
        front_end.start()
    except (ConfigurationError, CannotStart, PortTaken, OSError) as error:
        for line in str(error).splitlines():
            log.error("front_end_cannot_start %s", line)  # noqa: TRY400 -- the sentences are for an operator
        return CANNOT_START
    front_end.run()
    return 0


class FrontEnd:
    """The parts of this process."""

    def __init__(self, loaded: LoadedFrontEnd) -> None:
        """Take the ports.

        Raises:
            PortTaken: DicomPort, with a sentence for the operator.
            OSError: the folder or the port for health checks, likewise.
        """
        assert loaded.scp.dicom is not None  # noqa: S101 -- for the type checker
        settings = loaded.scp.model_dump(mode="json", by_alias=True)
        self._drain_timeout = loaded.scp.dicom.drain_timeout
        _make(loaded.front_end.directory)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._supervisor = Supervisor(
            [Child(spec, Path(sys.executable), _APPLICATION) for spec in worker_specs(settings, "", environment)],
            on_report=lambda _: None,
            on_death=lambda _: None,
            log_warning=log.warning,
            log_error=log.error,
        )
        self._orthanc = OrthancClient(loaded.scp.orthanc)
        self._orthanc_answers: bool | None = None  # None: not asked yet
        self._ending = threading.Event()
        address, port = loaded.front_end.health_bind_address, loaded.front_end.health_port
        self._health = HealthServer(address, port, is_ready=self.is_ready, document=self.document) if port else None

    def start(self) -> None:
        """Start the workers.

        Raises:
            CannotStart: with a sentence for the operator; none is left running.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ending.set())
        self._supervisor.start_all()
        self._supervisor.watch()
        if self._health:
            self._health.start()

    def run(self) -> None:
        """Until a signal ends it. The workers accept associations once an Orthanc has answered."""
        accepting = False
        while not self._ending.is_set():
            self._look()
            if self._orthanc_answers and not accepting:
                accepting = True
                self._supervisor.accept()
                log.info("front_end_ready")
            self._ending.wait(_LOOK_INTERVAL)
        self._supervisor.close(self._drain_timeout)

    def _look(self) -> None:
        try:
            self._orthanc.system()
        except OrthancError as error:
            if self._orthanc_answers is not False:
                log.warning("no_orthanc_answers reason=%s", error)
            self._orthanc_answers = False
        else:
            self._orthanc_answers = True

    def is_ready(self) -> bool:
        """Whether an association that comes now would be served."""
        accepting = any(worker.get("State") == "accepting" for worker in self._supervisor.status())
        return accepting and self._orthanc_answers is True and not self._ending.is_set()

    def document(self) -> dict[str, Any]:
        """`GET /status`."""
        return {
            "Ready": self.is_ready(),
            "OrthancAnswers": self._orthanc_answers is True,
            "Workers": self._supervisor.status(),
        }


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"Isen.FrontEnd.Directory: cannot make the folder {directory}: {error.strerror}; make it, or let this user"
        ) from None
