"""One child process: started with its settings on standard input, heard on standard output.

See `config.child_process` for the other end of the line. The pipe on the child's standard input is its life-line:
only its parent holds the writing end, so it closes however the parent ends. Runs inside Orthanc: standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from config.child_process import CANNOT_START

# glibc gives blocks of an image's size back to the system when they are freed, and the next image faults every page in
# again: a third of the kernel's CPU time of a worker that receives. So blocks below 8 MiB are kept, up to 32 MiB of
# them in each of two arenas.
_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_ARENA_MAX": "2",
}
_FIRST_PAUSE: Final = 0.1  # seconds before the first restart; doubles with each that follows soon
_LONGEST_PAUSE: Final = 30.0
_HEALTHY_AFTER: Final = 60.0  # seconds of life after which the pauses start over
SILENCE_LIMIT: Final = 30.0  # seconds without a report after which a child counts as hung


@dataclass(frozen=True)
class ChildSpec:
    """How to start one child."""

    name: str
    module: str  # run as `python -m module`
    launch_message: Callable[[], dict[str, Any]]
    descriptors: tuple[int, ...]  # inherited, by the same numbers
    environment: dict[str, str]


@dataclass
class Child:
    """A child process over all its restarts."""

    spec: ChildSpec
    python: Path
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    is_ready: bool = False
    refusal: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    restarts: int = -1
    start_at: float = 0.0  # monotonic time of the next start, when there is no process
    _started: float = 0.0
    _heard: float = 0.0
    _pause: float = _FIRST_PAUSE
    _unread: bytes = b""

    @property
    def is_silent(self) -> bool:
        """It is ready but has not reported for too long: hung, kill it."""
        return self.is_ready and self.silence > SILENCE_LIMIT

    @property
    def silence(self) -> float:
        """Seconds since it was heard."""
        return time.monotonic() - self._heard

    def start(self) -> None:
        """Start the process and hand it its settings.

        Raises:
            OSError: the interpreter cannot be executed.
        """
        self.process = subprocess.Popen(
            [str(self.python), "-m", self.spec.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self.folder,
            env={**_MEMORY, **self.spec.environment},
            pass_fds=self.spec.descriptors,
            process_group=0,  # Ctrl-C in Orthanc's terminal is Orthanc's business; it stops us in order
        )
        self.is_ready = False
        self.refusal = None
        self.report = {}
        self.restarts += 1
        self._started = self._heard = time.monotonic()
        self._unread = b""
        self.send(self.spec.launch_message())

    def send(self, message: dict[str, Any]) -> None:
        """Send the launch message or a command; a child that has just died is noticed by its end of file."""
        if self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def fileno(self) -> int:
        """The descriptor to wait on for `hear`."""
        assert self.process is not None and self.process.stdout is not None  # noqa: S101, PT018 -- for the type checker
        return self.process.stdout.fileno()

    def hear(self) -> Sequence[dict[str, Any]] | None:
        """The events that have arrived, or None at the end of the process's output."""
        data = os.read(self.fileno(), 65536)
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        events = [json.loads(line) for line in lines]
        for event in events:
            self._heard = time.monotonic()
            kind = event.pop("Event", None)
            if kind == "ready":
                self.is_ready = True
            elif kind == "refused":
                self.refusal = str(event.get("Reason"))
            elif kind == "report":
                self.report = event
        return events

    def bury(self) -> int:
        """Reap the process, whose output has ended, and plan the next start; returns its exit code."""
        assert self.process is not None  # noqa: S101 -- for the type checker
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._close_pipes()
        self.is_ready = False
        lived = time.monotonic() - self._started
        if code == 0 or lived > _HEALTHY_AFTER:
            self._pause = _FIRST_PAUSE
        if code == CANNOT_START:
            self._pause = _LONGEST_PAUSE
        self.start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self.process = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if there is one."""
        if self.process is not None:
            self.process.send_signal(number)

    def end(self, patience: float) -> None:
        """Stop it: SIGTERM, then SIGKILL after `patience` seconds."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _close_pipes(self) -> None:
        assert self.process is not None  # noqa: S101 -- for the type checker
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
