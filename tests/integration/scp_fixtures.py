"""A real Orthanc on its local disk, and one SCP worker in front of it: the DICOM services without the storage part."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from backend.stack.dcmtk import Peer
from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from config.settings import DicomSettings, Modality, OrthancSettings, ScpSettings, WorklistSettings

APPLICATION = Path(__file__).parents[2]
START_DEADLINE = 30.0  # seconds


class LocalOrthanc:
    """Orthanc as it comes, without Isen: HTTP on a free port, its own SCP on another."""

    def __init__(self, folder: Path, changes: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.http_port, self.dicom_port = free_port(), free_port()
        configuration = {
            "StorageDirectory": str(folder / "index"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "TcpNoDelay": True,
            **(changes or {}),
        }
        path = folder / "orthanc.json"
        path.write_text(json.dumps(configuration))
        self._process = Process(["/usr/sbin/Orthanc", path], folder / "orthanc.log", {"TCP_NODELAY": "1"})
        wait_until(self._answers, START_DEADLINE, "Orthanc answers")

    def request(self, path: str, body: bytes | None = None, method: str | None = None) -> Any:
        """The decoded answer of a GET, or of a POST when there is a body."""
        request = Request(f"http://127.0.0.1:{self.http_port}{path}", body, method=method)
        with urlopen(request, timeout=60) as response:  # noqa: S310 - always http
            return json.loads(response.read() or b"null")

    def file(self, instance: str) -> bytes:
        """The Part 10 file of an instance."""
        with urlopen(f"http://127.0.0.1:{self.http_port}/instances/{instance}/file", timeout=60) as response:
            return bytes(response.read())

    def put_text(self, path: str, text: str) -> None:
        """PUT, with an answer that is no JSON."""
        request = Request(f"http://127.0.0.1:{self.http_port}{path}", text.encode(), method="PUT")
        with urlopen(request, timeout=60) as response:  # noqa: S310 - always http
            response.read()

    def store(self, content: bytes) -> str:
        """Orthanc's identifier of a Part 10 file posted to it."""
        return str(self.request("/instances", content)["ID"])

    def empty(self) -> None:
        """Delete every patient."""
        for patient in self.request("/patients"):
            self.request(f"/patients/{patient}", method="DELETE")

    def stop(self) -> None:
        self._process.stop()

    def _answers(self) -> bool:
        try:
            self.request("/system")
        except (URLError, OSError):
            return False
        return True


class ScpWorker:
    """`python -m scp` with the settings given, its parent being the test."""

    def __init__(
        self,
        folder: Path,
        http_port: int,
        dicom: DicomSettings,
        worklists: WorklistSettings | None = None,
        dictionary: Mapping[str, tuple[str | int, ...]] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "scp.log"
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, self.log.open("wb") as log:
            listener.settimeout(0)
            self.port: int = listener.getsockname()[1]
            settings = ScpSettings(
                directory=folder / "spool",
                orthanc=OrthancSettings(url=f"http://127.0.0.1:{http_port}", dictionary=dict(dictionary or {})),
                dicom=dicom,
                worklists=worklists or WorklistSettings(),
            )
            launch = {
                "Settings": json.loads(settings.model_dump_json(by_alias=True)),
                "Listener": listener.fileno(),
                "Token": "",
                "Worker": 1,
                "MaximumAssociations": 50,
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scp"],
                cwd=APPLICATION,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[listener.fileno()],
                env={**os.environ, "TZ": "UTC"},
            )
            self._send(launch)
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        assert ready["Event"] == "ready", ready
        threading.Thread(target=self._process.stdout.read, daemon=True).start()  # the reports
        self._send({"Command": "accept"})
        self.pid = self._process.pid
        self.peer = Peer(self.port)
        wait_until(lambda: self.peer.echo().exit_code == 0, START_DEADLINE, "the worker answers C-ECHO")

    def output(self) -> str:
        """Its log lines."""
        return self.log.read_text()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()


def dicom_settings(**changes: Any) -> DicomSettings:
    """Settings that let everybody do everything, on this machine."""
    permissions = {f"always_allow_{service}": True for service in ("find", "get", "move")}
    return DicomSettings(processes=1, **{**permissions, **changes})


def modality(ae_title: str, port: int, **changes: Any) -> Modality:
    return Modality(name=ae_title.lower(), ae_title=ae_title, host="127.0.0.1", port=port, **changes)
