"""Where C-MOVE sends to: DCMTK's `storescp`, which takes everything and keeps nothing."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from backend.stack.dcmtk import Peer
from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from tests.bench.senders import tool


class Destination:
    """Runs with TCP_NODELAY=1, so that it is the sender's speed that shows; a process for each association."""

    def __init__(self, ae_title: str, folder: Path) -> None:
        """Starts it on a free port; returns when it answers."""
        self.port = free_port()
        command = [
            tool("storescp"),
            "--verbose",
            "--fork",
            "--ignore",
            "--promiscuous",
            "--aetitle",
            ae_title,
            str(self.port),
        ]
        self._process = Process(command, folder / "storescp.log", {"TCP_NODELAY": "1"})
        wait_until(lambda: Peer(self.port, called=ae_title).echo().exit_code == 0, 20, "storescp answers")

    def received(self) -> int:
        """How many images have come until now."""
        return len(re.findall("Received Store Request", self._process.output()))

    def stop(self) -> None:
        """End it and the processes of associations that are still open."""
        self._process.stop()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # none was left
