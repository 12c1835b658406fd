"""An S3 at a chosen distance: the benchmark's own, moto's, or Ceph's radosgw.

The own one is a process of this module, `python -m tests.bench.distant_s3 PORT`; the others stand behind `proxy.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from backend.stack.s3_server import S3Server
from tests.bench import http_server
from tests.bench.memory_s3 import MemoryS3
from tests.servers import radosgw
from tests.servers.real_s3 import ACCESS_KEY, SECRET_KEY

_DEADLINE: Final = 20.0  # seconds
# It keeps what it has emptied, and fills it again. Fresh memory costs a virtual machine microseconds for each page,
# which a distant server would not take from the contenders.
_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_ARENA_MAX": "1",
}


class DistantS3:
    """The benchmark's own server; far away in no time and at little cost."""

    description = "the benchmark's own S3 server: in memory, verifies checksums, not signatures"
    access_key = "isen"
    secret_key = "made-up-and-not-verified"

    def __init__(self, log: Path) -> None:
        """Starts it on a free port; returns when it answers."""
        self.port = free_port()
        self._start(log, "tests.bench.distant_s3", str(self.port))

    @property
    def pids(self) -> dict[int, str]:
        """Its processes."""
        return {self._process.pid: "(S3)"}

    def move(self, latency: float, bandwidth: float = 0.0) -> None:
        """From now on it is `latency` seconds away and `bandwidth` bytes per second wide (0: unlimited)."""
        self._request("GET", f"{http_server.CONTROL}?latency={latency}&bandwidth={bandwidth}")

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket that does not exist."""
        self._request("PUT", f"/{bucket}")

    def empty(self, bucket: str) -> None:
        """Forget every object of a bucket, so that a long run does not fill the memory."""
        self._request("DELETE", f"/{bucket}")
        self.create_bucket(bucket)

    def stop(self) -> None:
        """End it; what it holds is gone."""
        self._process.stop()

    def _start(self, log: Path, module: str, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = Process([sys.executable, "-m", module, *arguments], log, _MEMORY)
        wait_until(self._answers, _DEADLINE, f"{module} answers")

    def _answers(self) -> bool:
        if self._process.exit_code is not None:
            raise RuntimeError(f"it ended:\n{self._process.output()}")
        try:
            self.move(0)
        except URLError:
            return False
        return True

    def _request(self, method: str, path: str) -> None:
        with urlopen(Request(self.url + path, method=method), timeout=10):  # noqa: S310 - always http
            pass


class ProxiedS3(DistantS3):
    """A real server behind our proxy."""

    def __init__(self, log: Path, server: S3Server | radosgw.Radosgw) -> None:
        """Starts the proxy in front of `server`, which this object stops in the end."""
        self.port = free_port()
        self._server = server
        if isinstance(server, radosgw.Radosgw):
            self.description = "Ceph's radosgw behind the benchmark's proxy"
            self.access_key, self.secret_key = ACCESS_KEY, SECRET_KEY
        else:
            self.description = "moto's server, which takes 4 ms of CPU for a PUT, behind the benchmark's proxy"
        self._start(log, "tests.bench.proxy", str(self.port), str(server.port))

    @property
    def pids(self) -> dict[int, str]:
        return {self._process.pid: "(proxy)", self._server._process.pid: "(S3)"}

    def create_bucket(self, bucket: str) -> None:
        self._server.create_bucket(bucket)

    def empty(self, bucket: str) -> None:
        """Nothing: S3 has no request for it."""

    def stop(self) -> None:
        super().stop()
        self._server.stop()


SERVERS: Final[dict[str, Callable[[Path], DistantS3]]] = {
    "own": lambda folder: DistantS3(folder / "s3.log"),
    "moto": lambda folder: ProxiedS3(folder / "proxy.log", S3Server(free_port(), folder / "s3.log")),
    "radosgw": lambda folder: ProxiedS3(folder / "proxy.log", radosgw.Radosgw(folder / "s3.log")),
}


if __name__ == "__main__":
    http_server.serve(int(sys.argv[1]), MemoryS3(), http_server.Distance())
