"""An Orthanc with Isen, in a process of its own and a folder of its own.

orthanc.json    the configuration it runs with
orthanc.log     its log lines and those of Isen's processes
index/          Orthanc's SQLite index
spool/ cache/   Isen's
worklists/      *.wl files
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from backend.stack.processes import Process, wait_until
from config.orthanc_files import read_files

APPLICATION: Final = Path(__file__).parents[2]  # the folder of orthanc_plugin.py
BUCKET: Final = "dicom"
_START_DEADLINE: Final = 60.0  # seconds; an idle machine needs two
_PLUGINS: Final = ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins")


class NotStarted(Exception):
    """Orthanc ended while it started; the message holds its exit code and log."""

    def __init__(self, exit_code: int, log: str) -> None:
        super().__init__(f"Orthanc ended with exit code {exit_code}:\n{log}")
        self.exit_code = exit_code
        self.log = log


def configuration(folder: Path, endpoint: str, http_port: int, dicom_port: int) -> dict[str, Any]:
    """`config/orthanc.json` made to run below `folder`, reachable over HTTP from this machine only."""
    example = read_files([APPLICATION / "config" / "orthanc.json"], {}).configuration
    changes = {
        "StorageDirectory": str(folder / "index"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(_plugin())],
        "PythonScript": str(APPLICATION / "orthanc_plugin.py"),  # for plugins before 4.3; later ones prefer the section
        "Python": {"Path": str(APPLICATION / "orthanc_plugin.py"), "AllowThreads": True},
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "DicomPort": dicom_port,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowFindWorklist": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "Isen": {
            "Storage": {
                "BucketName": BUCKET,
                "CreateBucket": True,
                "Region": "us-east-1",
                "Endpoint": endpoint,
                "AccessKey": "isen",
                "SecretKey": "made-up-and-not-verified",
                "VirtualAddressing": False,
                "SpoolDirectory": str(folder / "spool"),
                "AllowVolatileSpool": True,  # the embedded S3 forgets everything anyway
                "CacheDirectory": str(folder / "cache"),
            },
            "Worklists": {"Enable": True, "Directory": str(folder / "worklists")},
        },
    }
    return merged(example, changes)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: sections are merged, everything else is replaced, None removes."""
    result = dict(base)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


class Orthanc:
    """One Orthanc over its starts and stops, always in the same folder and on the same ports."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], mark: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        """`settings` is Orthanc's configuration; nothing is started yet. `mark` finds all of its processes.

        `environment` is added to ours.
        """
        self.folder = folder
        self.settings = settings
        self.mark = mark
        self.environment = environment
        self.headers: dict[str, str] = {}  # of every request; where Orthanc asks for a log-in
        self.log = folder / "orthanc.log"
        self.url = f"http://127.0.0.1:{settings['HttpPort']}"
        self.dicom_port: int = settings["DicomPort"]
        self._process: Process | None = None

    def start(self) -> None:
        """Write the configuration, start Orthanc, return when it answers HTTP.

        Raises:
            NotStarted: it ended instead.
        """
        for name in ("index", "worklists"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        path = self.folder / "orthanc.json"
        path.touch(0o600)  # it may hold a secret
        path.write_text(json.dumps(self.settings, indent=2))
        self._process = Process([_program(), path], self.log, self.environment, self.mark)
        try:
            wait_until(self._answers, _START_DEADLINE, f"Orthanc answers on {self.url}")
        except BaseException:
            self.stop()
            raise

    @property
    def process(self) -> Process:
        """The process of the latest start."""
        assert self._process is not None, "it was never started"  # noqa: S101 - for the type checker
        return self._process

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self.process.stop() if self._process else 0

    def kill(self) -> None:
        """SIGKILL to Orthanc alone, as a crash would end it."""
        self.process.kill()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Body of a GET.

        Raises:
            urllib.error.HTTPError: Orthanc answered with an error.
        """
        return self._request("GET", path, headers=headers)

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: bytes) -> bytes:
        return self._request("POST", path, body)

    def put(self, path: str, body: bytes) -> bytes:
        return self._request("PUT", path, body)

    def delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        request = Request(f"{self.url}/{path.lstrip('/')}", body, {**self.headers, **(headers or {})}, method=method)  # noqa: S310 - always http
        with urlopen(request, timeout=60) as response:  # noqa: S310 - always http
            answer: bytes = response.read()
            return answer

    def _answers(self) -> bool:
        if (code := self.process.exit_code) is not None:
            raise NotStarted(code, self.process.output())
        try:
            self.get("/system")
        except (URLError, OSError):
            return False
        return True


def _program() -> str:
    """Orthanc itself: $ORTHANC, or the one of the search path."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # Debian: only root's path has /usr/sbin
    program = os.environ.get("ORTHANC") or shutil.which("Orthanc", path=path)
    if not program:
        raise FileNotFoundError("Orthanc is not installed; run `make setup`")
    return program


def _plugin() -> Path:
    """Orthanc's Python plugin: $ORTHANC_PYTHON_PLUGIN, or the one of the packages."""
    if named := os.environ.get("ORTHANC_PYTHON_PLUGIN"):
        return Path(named)
    for folder in _PLUGINS:
        if (plugin := Path(folder) / "libOrthancPython.so").exists():
            return plugin
    raise FileNotFoundError("Orthanc's Python plugin is not installed; run `make setup`")
