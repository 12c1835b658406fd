"""Starts real SCP workers the way the plugin does, and reads their reports."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """One worker; `report` is its last report, `log` everything it wrote to standard error."""

    def __init__(self, module: str, launch: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in `stop`
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            pass_fds=descriptors,
            text=True,
        )
        self.pid = self.process.pid
        self.report: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.send(launch)
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def wait_for(self, condition: Any, timeout: float = 60.0) -> None:
        """Wait until `condition(self)` holds, checked at each event.

        Raises:
            AssertionError: it did not in time.
        """
        with self._news:
            assert self._news.wait_for(lambda: condition(self), timeout), f"{self.report} {self.log()[-2000:]}"

    def log(self) -> str:
        return os.pread(self._stderr.fileno(), 1 << 24, 0).decode()

    def resident(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout
        self._stderr.close()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            event = json.loads(line)
            with self._news:
                if event["Event"] == "report":
                    self.report = event
                self.events.append(event)
                del self.events[:-50]
                self._news.notify_all()
        self.process.wait()
        with self._news:
            self.events.append({"Event": "ended"})
            self._news.notify_all()


class Workers:
    """A group of workers on one listening socket."""

    def __init__(self, folder: Path, count: int, module: str, dicom: dict[str, Any], **launch: Any) -> None:
        self.folder = folder
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self.port: int = self.listener.getsockname()[1]
        self.occupancy = os.memfd_create("occupancy")
        self._count = count
        self._module = module
        total = dicom.get("MaximumAssociations", 200)
        self._launch = {
            "Settings": {
                "Directory": str(folder),
                "Dicom": {
                    "Processes": count,
                    "Port": self.port,
                    "AlwaysAllowFind": True,
                    "AlwaysAllowGet": True,
                    **dicom,
                },
            },
            "Listener": self.listener.fileno(),
            "Occupancy": self.occupancy,
            "Token": "",
            **launch,
        }
        self._shares = [total // count + (index < total % count) for index in range(count)]
        self.workers = [self.start(index) for index in range(count)]
        for worker in self.workers:
            worker.wait_for(lambda w: any(e["Event"] != "report" for e in w.events))
            if any(event["Event"] == "ready" for event in worker.events):  # a test may want one that refuses
                worker.send({"Command": "accept"})
        for worker in self.workers:
            worker.wait_for(lambda w: w.report.get("State") == "accepting" or w.process.poll() is not None)

    def start(self, index: int) -> WorkerProcess:
        launch = {**self._launch, "Worker": index + 1, "MaximumAssociations": self._shares[index]}
        return WorkerProcess(self._module, launch, (self.listener.fileno(), self.occupancy))

    def __getitem__(self, index: int) -> WorkerProcess:
        return self.workers[index]

    def associations(self) -> int:
        return sum(worker.report.get("Associations", 0) for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.listener.close()
        os.close(self.occupancy)


@contextlib.contextmanager
def workers(
    folder: Path,
    *,
    count: int = 1,
    module: str = "tests.fakes.sink_worker",
    launch: dict[str, Any] | None = None,
    **dicom: Any,
) -> Iterator[Workers]:
    """`count` workers that accept, stopped at the end; `dicom` are settings by their JSON names."""
    group = Workers(folder, count, module, dicom, **(launch or {}))
    try:
        yield group
    finally:
        group.close()


def eventually(condition: Any, timeout: float = 10.0) -> None:
    """Poll `condition()` until it is true.

    Raises:
        AssertionError: it was not in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
