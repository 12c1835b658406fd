"""One SCP worker: what the parent's launch message says becomes a running server, and its end an orderly one.

It ends at once when the parent is gone, after a drain on SIGTERM or the command `drain`, and after a drain of its own
accord when it has grown past MaximumWorkerMemory: the parent starts another.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from config.child_process import ParentLine
from config.settings import DicomSettings, ScpSettings
from scp.access_control import AccessControl
from scp.administration import CurrentSettings
from scp.association_server import AssociationServer
from scp.establishment import Establishment
from scp.log_limit import EventLimit
from scp.occupancy import Occupancy
from scp.request import Service
from scp.tls import TlsContext
from scp.upper_layer.data_set_buffer import MemoryBudget
from scp.upper_layer.dispatch import Dispatcher
from scp.upper_layer.limits import Limits
from scp.upper_layer.negotiation import Negotiator

log = logging.getLogger(__name__)

# The services, and the settings as they are at any time
BuildServices = Callable[[ScpSettings, dict[str, Any]], tuple[Iterable[Service], CurrentSettings]]

_STACK: Final = 1024 * 1024  # bytes of address space per thread, instead of 8 MiB
_PAGE: Final = os.sysconf("SC_PAGESIZE")


class Worker:
    """Wires the parts of one process together; `run` returns when it is drained."""

    def __init__(self, launch: dict[str, Any], line: ParentLine, build_services: BuildServices) -> None:
        """Read the settings, load the certificates.

        Raises:
            CannotStart: with a sentence for the operator.
        """
        settings = ScpSettings.model_validate(launch["Settings"])
        dicom = settings.dicom
        if dicom is None:
            raise CannotStart("Isen.Dicom.Enabled is false, so there is nothing for an SCP worker to do")
        self._dicom = dicom
        self._line = line
        limits = Limits.of(dicom)
        services, self._current = build_services(settings, launch)
        services = tuple(services)
        self._reports = [service.report for service in services if service.report]
        access = AccessControl(self._current)
        folder = _receive_folder(settings, dicom)
        budget = MemoryBudget(dicom.total_data_set_memory)
        self._dispatcher = Dispatcher(services, access=access, limits=limits, folder=folder, budget=budget)
        occupancy = Occupancy(
            worker=launch["Worker"] - 1,
            workers=dicom.processes,
            room=launch["MaximumAssociations"],
            total=dicom.maximum_associations,
            descriptor=launch.get("Occupancy"),
        )
        self.server = AssociationServer(
            socket.socket(fileno=launch["Listener"]),
            settings=dicom,
            establishment=Establishment(
                self._current, access, Negotiator(self._current, services), limits, self._dispatcher.dispatch
            ),
            occupancy=occupancy,
            tls=_tls(dicom),
            count=self._dispatcher.count,
        )

    def run(self) -> None:
        """Tell the parent that we are ready, then serve until drained."""
        _prepare_process()
        signal.signal(signal.SIGTERM, lambda *_: self.server.drain())
        self._line.watch(self._command, lambda: os._exit(0))
        self._line.ready()
        self.server.run(self._each_second)
        self._report()

    def _command(self, command: dict[str, Any]) -> None:
        if command.get("Command") == "accept":
            self._current.start()
            self.server.accept()
        elif command.get("Command") == "drain":
            self.server.drain()

    def _each_second(self) -> None:
        self._report()
        limit = self._dicom.maximum_worker_memory
        if limit and not self.server.is_draining and resident_memory() > limit:
            log.warning("worker_recycled resident_bytes=%d maximum_bytes=%d", resident_memory(), limit)
            self.server.drain()

    def _report(self) -> None:
        state = "draining" if self.server.is_draining else "accepting" if self.server.is_accepting else "ready"
        self._line.report(
            {
                "State": state,
                "Associations": self.server.associations,
                "Connections": self.server.connections,
                "Counters": self._dispatcher.counters(),
                "ResidentBytes": resident_memory(),
                "Threads": threading.active_count(),
                **{name: value for report in self._reports for name, value in report().items()},
            }
        )


class CannotStart(Exception):
    """The worker cannot start, and trying again would not help; the text says what to do."""


def resident_memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _prepare_process() -> None:
    threading.stack_size(_STACK)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # pydicom warns about invalid values; each distinct text would stay in memory for ever, and may be a patient's.
    warnings.simplefilter("ignore")
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for handler in logging.getLogger().handlers:
        handler.addFilter(EventLimit())


def _receive_folder(settings: ScpSettings, dicom: DicomSettings) -> Path:
    folder = dicom.receive_directory or settings.directory / "receiving"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(
            f"Isen.Dicom.ReceiveDirectory: cannot make the folder {folder}: {error.strerror}; "
            "make it, or let the user that Orthanc runs as make it"
        ) from None
    return folder


def _tls(dicom: DicomSettings) -> Callable[[], Any]:
    if dicom.tls is None:
        return lambda: None
    try:
        return TlsContext(dicom.tls, server_side=True).current
    except OSError as error:
        raise CannotStart(
            f"DicomTlsCertificate, DicomTlsPrivateKey, DicomTlsTrustedCertificates: cannot be loaded: {error}; "
            "they must be PEM files that belong together and that the user that Orthanc runs as can read"
        ) from None
