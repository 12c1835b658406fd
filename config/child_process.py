"""The child's end of the line to the plugin that started it: standard input and standard output.

    stdin    one line of JSON, the launch message; then one JSON object per line, each a command;
             end of file: the parent is gone, end at once
    stdout   one JSON object per line: {"Event": "ready"}, {"Event": "refused", "Reason": …}, {"Event": "report", …}
    stderr   log lines, shared with Orthanc's

The pipe on standard input is the life-line: whatever ends Orthanc closes it, even SIGKILL. Secrets come this way too,
because arguments and environments can be listed by others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

CANNOT_START = 78  # EX_CONFIG of sysexits.h: starting again would not help


class ParentLine:
    """Speaks with the parent. Make one, in the main thread, before anything prints."""

    def __init__(self) -> None:
        signal.pthread_sigmask(
            signal.SIG_SETMASK, []
        )  # a thread of Orthanc's started us, its blocked signals came along
        self._commands = os.fdopen(os.dup(0), "rb")
        self._events = os.fdopen(os.dup(1), "wb", buffering=0)
        self._lock = threading.Lock()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)  # a stray print must not be read as an event
        sys.stdout = sys.stderr

    def launch_message(self) -> dict[str, Any]:
        """What the parent sends first: settings, descriptor numbers, token.

        Raises:
            EOFError: the parent ended before it sent anything.
        """
        line = self._commands.readline()
        if not line:
            raise EOFError("the parent process ended before it sent the settings")
        message: dict[str, Any] = json.loads(line)
        return message

    def ready(self) -> None:
        """Tell the parent that this process works; it waits for this before Orthanc starts."""
        self._send({"Event": "ready"})

    def report(self, fields: dict[str, Any]) -> None:
        """Send the parent the figures it shows in `/isen/status`; call it about once a second."""
        self._send({"Event": "report", **fields})

    def refuse(self, reason: str) -> NoReturn:
        """Say why this process cannot start, and what to do, then end. A restart would not help."""
        self._send({"Event": "refused", "Reason": reason})
        os._exit(CANNOT_START)

    def watch(self, on_command: Callable[[dict[str, Any]], None], on_end: Callable[[], None]) -> None:
        """Serve the parent's commands from a thread; `on_end` runs once, when the parent is gone."""
        threading.Thread(target=self._watch, args=(on_command, on_end), name="parent-line", daemon=True).start()

    def _watch(self, on_command: Callable[[dict[str, Any]], None], on_end: Callable[[], None]) -> None:
        for line in self._commands:
            on_command(json.loads(line))
        on_end()

    def _send(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._events.write(line)
        except OSError:
            pass  # the parent is gone; end of file on standard input says so too
