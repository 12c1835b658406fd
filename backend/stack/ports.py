"""TCP ports: which are free, which are taken and by whom."""

from __future__ import annotations

import os
import socket
from pathlib import Path


class PortsTaken(Exception):
    """Ports somebody else listens on; the message says which and how to choose others."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ports_from_environment(defaults: dict[str, int]) -> dict[str, int]:
    """The port of each variable in `defaults`: its value in the environment, or the default.

    Raises:
        PortsTaken: naming every one that is taken.
        ValueError: a variable does not hold a port number.
    """
    ports = {}
    for variable, default in defaults.items():
        text = os.environ.get(variable) or str(default)
        if not (text.isdecimal() and 0 < int(text) < 65536):
            raise ValueError(f"{variable}={text}: not a port number (1 to 65535)")
        ports[variable] = int(text)
    taken = [f"port {port} is taken; choose another one with {name}=…" for name, port in ports.items() if _taken(port)]
    if len(set(ports.values())) < len(ports):
        taken.append(f"the same port is named twice: {' '.join(f'{name}={port}' for name, port in ports.items())}")
    if taken:
        raise PortsTaken("\n".join([*taken, *_running_orthanc()]))
    return ports


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no obstacle to a listener either
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - only a listener on every interface collides with all others
        except OSError:
            return True
        return False


def _running_orthanc() -> list[str]:
    """Debian's package starts an Orthanc of its own where systemd runs: by far the likeliest owner of the ports."""
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "comm").read_text().strip() == "Orthanc":
                return [
                    f"An Orthanc is running as process {folder.name}.",
                    "If it is the service of Debian's package: systemctl disable --now orthanc",
                ]
        except OSError:  # it has just ended
            continue
    return []
