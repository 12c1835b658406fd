"""Where C-MOVE sends to: DCMTK's `storescp`, which keeps what it receives in memory until it has been counted."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from backend.stack.dcmtk import Peer
from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from tests.bench.senders import tool


class Destination:
    """Runs with TCP_NODELAY=1, so that it is the sender's speed that shows; a process for each association."""

    def __init__(self, ae_title: str, folder: Path) -> None:
        """Starts it on a free port with its files in `folder`; returns when it answers."""
        self.port = free_port()
        self._folder = folder / "destination"
        self._folder.mkdir()
        options = ["--fork", "--bit-preserving", "--promiscuous", "--output-directory", str(self._folder)]
        command = [tool("storescp"), *options, "--aetitle", ae_title, str(self.port)]
        self._process = Process(command, folder / "storescp.log", {"TCP_NODELAY": "1"})
        wait_until(lambda: Peer(self.port, called=ae_title).echo().exit_code == 0, 20, "storescp answers")

    def take(self) -> int:
        """How many images have come since this was last asked; they are deleted."""
        return take(self._folder)

    def stop(self) -> None:
        """End it and the processes of associations that are still open."""
        self._process.stop()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # none was left


def take(folder: Path) -> int:
    """How many files there are; afterwards the folder is empty."""
    count = sum(1 for _ in folder.iterdir())
    shutil.rmtree(folder)
    folder.mkdir()
    return count
