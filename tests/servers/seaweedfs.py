"""SeaweedFS on its own: a real S3 server, which verifies signatures, serves ranges and assembles parts.

Its program comes with the Python package of the same name, so it is there wherever the tests' packages are.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from backend.transfer.object_store.errors import ObjectStoreError
from tests.servers.real_s3 import ACCESS_KEY, SECRET_KEY, RealS3

_DEADLINE: Final = 60.0  # seconds; it answers after two or three
_PORTS: Final = (  # of its parts, and of those that cannot be left out
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)
_OPTIONS: Final = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-volume.max=10000",
    "-volume.preStopSeconds=0",
    "-master.volumeSizeLimitMB=100",
    "-master.telemetry=false",
    "-s3",
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
)
_ENVIRONMENT: Final = {
    "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # files that it makes for a new bucket
    "WEED_S3_SSE_KEK": "00112233445566778899aabbccddeeff" * 2,  # the server's own key
}
_IDENTITIES: Final = {
    "identities": [
        {
            "name": "isen",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


class SeaweedFS(RealS3):
    """A running SeaweedFS."""

    def __init__(self, log: Path) -> None:
        """Starts it."""
        super().__init__(free_port())
        self._data = Path(tempfile.mkdtemp(prefix="seaweedfs-"))
        identities = self._data / "s3.json"
        identities.write_text(json.dumps(_IDENTITIES))
        ports = [f"-{part}={free_port()}" for part in _PORTS]
        options = [*_OPTIONS, f"-dir={self._data}", f"-s3.port={self.port}", f"-s3.config={identities}"]
        self._command = [Path(sys.executable).with_name("weed"), "server", *options, *ports]
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it, with what it kept; returns once it answers."""
        self._process = Process(self._command, self._log, _ENVIRONMENT)
        try:
            wait_until(self._answers, _DEADLINE, "SeaweedFS answers")
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self._process.kill()

    def stop(self) -> None:
        """End it for good."""
        self._process.stop(timeout=1)  # it would take its time to bring in order what is removed now
        shutil.rmtree(self._data, ignore_errors=True)

    def _answers(self) -> bool:
        if self._process.exit_code is not None:
            raise RuntimeError(f"SeaweedFS ended with {self._process.exit_code}: {self._process.output()[-500:]}")
        try:
            self.store("readiness").create_bucket()
        except ObjectStoreError:
            return False
        return True
