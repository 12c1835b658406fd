"""TCP ports: which are free, which are taken and by whom."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Final

_FREE: Final = (12000, 32768)  # below Linux's ip_local_port_range
_given: Final[set[int]] = set()
_LISTEN: Final = "0A"  # state TCP_LISTEN in /proc/net/tcp


class PortsTaken(Exception):
    """Ports somebody else listens on; the message says which and how to choose others."""


def free_port() -> int:
    """A port that nobody listens on at this moment, and that this has not returned before.

    Not one of those that the kernel gives to outgoing connections: one of them might have it a moment later.
    """
    while True:
        port = random.randrange(*_FREE)  # noqa: S311 - nobody has to guess it
        if port not in _given and not _is_taken(port):
            _given.add(port)
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
    taken = [
        f"port {port} is taken{_by(_owner(port))}; choose another one with {variable}=…"
        for variable, port in ports.items()
        if _is_taken(port)
    ]
    if len(set(ports.values())) < len(ports):
        taken.append(f"the same port is named twice: {' '.join(f'{name}={port}' for name, port in ports.items())}")
    if taken:
        raise PortsTaken("\n".join(taken))
    return ports


def _by(owner: tuple[int, str] | None) -> str:
    if owner is None:
        return ""
    pid, name = owner
    # Debian's package starts an Orthanc of its own where systemd runs: by far the likeliest owner.
    hint = "; if it is Debian's service: systemctl disable --now orthanc" if name == "Orthanc" else ""
    return f" by {name} (process {pid}{hint})"


def _owner(port: int) -> tuple[int, str] | None:
    """Process id and name of who listens on a port, as far as we may see it."""
    sockets = {
        f"socket:[{fields[9]}]"
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in (line.split() for line in Path(table).read_text().splitlines()[1:])
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(_target(entry) in sockets for entry in folder.glob("fd/*")):
                return int(folder.name), (folder / "comm").read_text().strip()
        except OSError:  # it has just ended, or belongs to somebody else
            continue
    return None


def _target(descriptor: Path) -> str | None:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # closed meanwhile; the process may have others
        return None


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no obstacle to a listener either
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - only a listener on every interface collides with all others
        except OSError:
            return True
        return False
