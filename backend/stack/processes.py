"""Programs that run beside this one, and the certainty that they are gone afterwards.

Each gets a session of its own, so that Ctrl-C in the terminal reaches only us and we decide the order, and
`setpriv --pdeathsig`, so that it ends even if we are killed. A mark in the environment is inherited by all that a
program starts and finds them again, whoever their parent has become.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

MARK: Final = "ISEN_STACK"
_Value = TypeVar("_Value")
_POLL: Final = 0.02  # seconds between two looks at a condition


class NotInTime(AssertionError):
    """A condition did not become true before its deadline."""


def wait_until(condition: Callable[[], _Value], deadline: float, what: str) -> _Value:
    """Wait up to `deadline` seconds until `condition` returns something true, and return that.

    Raises:
        NotInTime: with `what` and the last value.
    """
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise NotInTime(f"after {deadline:g} s still not: {what} (last seen: {value!r})")
        time.sleep(_POLL)


class Process:
    """A program that was started, with its output in a file."""

    def __init__(
        self, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, mark: str = ""
    ) -> None:
        """`log` is appended to; `environment` is added to ours."""
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {}), MARK: mark},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def output(self) -> str:
        """What it has written since it was started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self._process.wait(timeout)

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM, and SIGKILL to its whole session after `timeout` seconds; returns the exit code."""
        if self.exit_code is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL to this process alone."""
        self._process.kill()
        self._process.wait()


def marked(mark: str, variable: str = MARK) -> dict[int, str]:
    """The running processes that carry `mark` in their environment: process id → command line."""
    wanted = f"{variable}={mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has just ended, is a zombie, or belongs to somebody else
            continue
    return found
