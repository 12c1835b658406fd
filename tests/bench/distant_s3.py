"""An S3 at a chosen distance, in a process of its own: `python -m tests.bench.distant_s3 PORT`.

`GET /-/distance?latency=…&bandwidth=…` (seconds, bytes per second) changes the distance while it runs.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from tests.bench import http_server
from tests.bench.memory_s3 import MemoryS3

_CONTROL: Final = "/-/distance"
_DEADLINE: Final = 20.0  # seconds


class DistantS3:
    """The server as the benchmark sees it."""

    description = "the benchmark's own S3 server (in memory, verifies checksums; other process, same machine)"

    def __init__(self, log: Path) -> None:
        """Starts it on a free port; returns when it answers."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = Process([sys.executable, "-m", "tests.bench.distant_s3", str(self.port)], log)
        wait_until(self._answers, _DEADLINE, "the benchmark's S3 answers")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def move(self, latency: float, bandwidth: float = 0.0) -> None:
        """From now on it is `latency` seconds away and `bandwidth` bytes per second wide (0: unlimited)."""
        self._request("GET", f"{_CONTROL}?latency={latency}&bandwidth={bandwidth}")

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket that does not exist."""
        self._request("PUT", f"/{bucket}")

    def stop(self) -> None:
        """End it; what it holds is gone."""
        self._process.stop()

    def _answers(self) -> bool:
        if self._process.exit_code is not None:
            raise RuntimeError(f"the S3 server ended:\n{self._process.output()}")
        try:
            self.move(0)
        except URLError:
            return False
        return True

    def _request(self, method: str, path: str) -> None:
        with urlopen(Request(self.url + path, method=method), timeout=10):  # noqa: S310 - always http
            pass


def main() -> None:
    """Serve until terminated."""
    distance = http_server.Distance()
    s3 = MemoryS3()

    def handle(request: http_server.Request) -> http_server.Answer:
        if request.path != _CONTROL:
            return s3(request)
        distance.latency = float(request.query.get("latency", 0))
        distance.bandwidth = float(request.query.get("bandwidth", 0))
        return http_server.Answer(200)

    asyncio.run(http_server.serve(int(sys.argv[1]), handle, distance))


if __name__ == "__main__":
    main()
