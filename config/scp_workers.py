"""How DICOM workers are started, by the plugin and by a front end alike. Runs inside Orthanc: standard library only."""

from __future__ import annotations

import errno
import os
import socket
import time
from functools import partial
from typing import Any, Final

from config.children import ChildSpec

_BACKLOG: Final = 1024
_PATIENCE: Final = 5.0  # seconds


class PortTaken(OSError):
    """DicomPort is another program's."""


def dicom_listener(port: int) -> int:
    """The descriptor of the listening DICOM socket, non-blocking, for every worker to accept from.

    A worker of a parent that was killed may hold the port a moment longer; that is waited for.

    Raises:
        PortTaken: with a sentence for the operator.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            listener = socket.create_server(("", port), backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise PortTaken(
                f"DicomPort: cannot listen on port {port}: {os.strerror(error.errno or 0)}; choose a free DicomPort or "
                "stop the program that uses it"
            ) from None
        listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        return listener.detach()


def scp_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """`config.settings.ScpSettings` out of Orthanc's `Settings`, both as JSON values."""
    return {
        "Directory": settings["Storage"]["SpoolDirectory"],
        "StorageStructure": settings["Storage"]["StorageStructure"],
        **{name: settings[name] for name in ("Orthanc", "Dicom", "Worklists", "Hl7")},
    }


def worker_specs(settings: dict[str, Any], token: str, environment: dict[str, str]) -> list[ChildSpec]:
    """One for each of `Isen.Dicom.Processes`; `settings` are `ScpSettings`, as JSON values.

    Raises:
        PortTaken: with a sentence for the operator.
    """
    dicom = settings["Dicom"]
    listener = dicom_listener(dicom["Port"])
    occupancy = os.memfd_create("associations")  # where the workers count theirs for each other (scp.occupancy)
    count, total = dicom["Processes"], dicom["MaximumAssociations"]
    specs = []
    for index in range(count):
        launch: dict[str, Any] = {
            "Settings": settings,
            "Listener": listener,
            "Occupancy": occupancy,
            "Token": token,
            "Worker": index + 1,
            "MaximumAssociations": total // count + (index < total % count),
        }
        specs.append(ChildSpec(f"scp-{index + 1}", "scp", partial(dict, launch), (listener, occupancy), environment))
    return specs
