"""A running front end, and the Orthancs it is made for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from base64 import b64encode
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from backend.stack.dcmtk import Peer
from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from tests.integration.harness import Node

APPLICATION = Path(__file__).parents[2]
PASSWORD = "made-up-and-secret"
STORAGE_ONLY = {
    "AuthenticationEnabled": True,
    "RegisteredUsers": {"front": PASSWORD, "tests": PASSWORD},
    "Isen": {"Dicom": {"Enabled": False}, "FrontEndUsers": ["front"]},
}


class FrontEnd:
    """One running front end with two workers."""

    def __init__(self, folder: Path, *urls: str, **changes: Any) -> None:
        folder.mkdir()
        self.dicom_port, self.health_port = free_port(), free_port()
        self.log = folder / "log"
        configuration = {
            "DicomAet": "ISEN",
            "DicomPort": self.dicom_port,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "Isen": {
                "FrontEnd": {
                    "Orthancs": [{"Url": url, "Username": "front", "Password": "${FRONT_PASSWORD}"} for url in urls],
                    "Directory": str(folder / "state"),
                    "HealthPort": self.health_port,
                    **changes,
                },
                "Dicom": {"Processes": 2},
            },
        }
        path = folder / "front-end.json"
        path.write_text(json.dumps(configuration))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scp", str(path)],
                cwd=APPLICATION,
                env={**os.environ, "FRONT_PASSWORD": PASSWORD},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.peer = Peer(self.dicom_port)

    def health(self, path: str) -> tuple[int, Any]:
        """Status and JSON; (0, None) if nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)
        except (URLError, OSError):
            return 0, None

    def is_ready(self) -> bool:
        return self.health("/health/ready")[0] == HTTPStatus.OK

    def wait_until_ready(self) -> FrontEnd:
        wait_until(self.is_ready, 30, f"the front end is ready: {self.log.read_text()[-1000:]}")
        return self

    def workers(self) -> list[int]:
        return [worker["Pid"] for worker in self.health("/status")[1]["Workers"]]

    def stores(self) -> int:
        """How many C-STORE requests its workers have answered."""
        workers = self.health("/status")[1]["Workers"]
        return sum(worker.get("Counters", {}).get("c_store_served", 0) for worker in workers)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


def log_in(node: Node) -> None:
    """Have the test's own requests carry a name and a password."""
    node.orthanc.headers["Authorization"] = "Basic " + b64encode(f"tests:{PASSWORD}".encode()).decode()
