"""Makes system calls of a running process fail, with strace, and keeps the record of what it called."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from backend.stack.processes import wait_until

ROOT: Final = Path(__file__).parents[2]
TRACED: Final = (
    "openat,close,read,pread64,write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,flock,"
    "fsetxattr,setxattr,fgetxattr,getxattr,newfstatat,fstat,lstat,stat,statx,getdents64,utimensat,"
    "socket,connect,sendto,writev"
)
_CALL: Final = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)\) += (-?\d+|\?)(.*)$")


def why_no_strace() -> str | None:
    """What this machine lacks."""
    if not shutil.which("strace"):
        return "strace is not installed"
    attached = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "processes cannot be traced here" if attached.returncode else None


@dataclass(frozen=True)
class Call:
    """One system call, in the order of the calls' ends."""

    thread: str
    name: str
    arguments: str  # descriptors with their paths
    result: int
    error: str  # empty: none
    was_injected: bool

    @property
    def succeeded(self) -> bool:
        return self.result >= 0 and not self.was_injected


class Injection:
    """While it lasts, some system calls of a process fail."""

    def __init__(self, pid: int, log: Path, *faults: str) -> None:
        """`faults` as strace spells them, such as `fsync:error=EIO:when=1`; none: only a record."""
        self._pid = pid
        self._log = log
        command = ["strace", "-f", "-y", "-qq", "-s", "0", "-o", log, "-e", f"trace={TRACED}", "-e", "signal=none"]
        command += [word for fault in faults for word in ("-e", f"inject={fault}")]
        self._process = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        wait_until(self._is_attached, 20, "strace is attached to every thread")
        return self

    def __exit__(self, *_: object) -> None:
        wait_until(self._is_idle, 20, "strace has written down what was called")
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)

    def calls(self) -> list[Call]:
        """What has been called, once it is over; without calls that have not returned."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            match = _CALL.match(line)
            if match and match[4] != "?":
                thread, name, arguments, result, rest = match.groups()
                error = rest.strip() if int(result) < 0 else ""
                found.append(Call(thread or "", name, arguments, int(result), error, "(INJECTED)" in rest))
        return found

    def _is_idle(self) -> bool:
        """Whether the process waits, for its next step: its last call was let go on. Or it is gone."""
        try:
            state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state in "SZ"

    def _is_attached(self) -> bool:
        assert self._process.poll() is None, "strace has ended"
        return all(
            re.search(r"^TracerPid:\t[1-9]", (task / "status").read_text(), re.MULTILINE)
            for task in Path(f"/proc/{self._pid}/task").iterdir()
        )


class Subject:
    """`tests.faults.write_path` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.write_path", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            bufsize=0,
        )
        self._read()

    def do(self, step: str, *arguments: object) -> Any:
        """The result of one step.

        Raises:
            AssertionError: an exception came out of it.
        """
        answer = self.ask(step, arguments)
        assert "Result" in answer, answer
        return answer["Result"]

    def ask(self, step: str, arguments: Sequence[object]) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([step, *arguments]).encode())
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the write path has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer
