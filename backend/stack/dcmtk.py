"""DCMTK's command line tools as functions: what they were told, what they answered."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until

_TIMEOUT: Final = 120.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What one run of a tool came to."""

    exit_code: int
    output: str
    data_sets: list[Dataset] = field(default_factory=list)  # identifiers of C-FIND responses

    @property
    def statuses(self) -> list[int]:
        """The status of every response, in order."""
        return [int(text, 16) for text in re.findall(r"DIMSE Status\s*: 0x([0-9a-f]{4})", self.output)]

    @property
    def counters(self) -> tuple[int, ...]:
        """Completed, failed and warned sub-operations, of the last response that has them."""
        names = ("Completed", "Failed", "Warning")
        found = [re.findall(rf"{name} Suboperations\s*: (\d+)", self.output) for name in names]
        return tuple(int(numbers[-1]) for numbers in found if numbers)

    @property
    def sent(self) -> int:
        """Instances that dcmsend counts as sent with status success; its exit code does not tell."""
        counts = re.findall(r"with status SUCCESS\s*: (\d+)", self.output)
        return int(counts[-1]) if counts else 0


@dataclass(frozen=True)
class Peer:
    """Somebody who speaks to the SCP on `port` of this machine."""

    port: int
    calling: str = "MODALITY"
    called: str = "ORTHANC"

    def echo(self) -> Answer:
        """C-ECHO; exit code 0 only if the status is success, which echoscu itself does not care about."""
        answer = self._run("echoscu")
        succeeded = "Received Echo Response (Success)" in answer.output
        return answer if succeeded else replace(answer, exit_code=answer.exit_code or 1)

    def store(self, *files: Path, options: Sequence[str] = ()) -> Answer:
        """C-STORE of files and folders, uncompressed ones, over one association, with one answer for each."""
        return self._run("storescu", "+sd", "+r", *options, arguments=files)

    def send(self, *files: Path) -> Answer:
        """C-STORE of files and folders in whatever transfer syntax they have, over one association."""
        return self._run("dcmsend", "+sd", "+r", arguments=files, verbosity="-v")

    def find(self, *keys: str, model: str = "-S", options: Sequence[str] = ()) -> Answer:
        """C-FIND; keys like `PatientID=1`. Model: -P Patient Root, -S Study Root, -W worklist."""
        with tempfile.TemporaryDirectory() as folder:
            answer = self._run("findscu", model, "-X", "-od", folder, *options, *_keys(keys))
            found: list[Dataset] = [dcmread(path, force=True) for path in sorted(Path(folder).glob("rsp*.dcm"))]
        return Answer(answer.exit_code, answer.output, found)

    def move(self, destination: str, *keys: str, model: str = "-S") -> Answer:
        """C-MOVE to the AE `destination`."""
        return self._run("movescu", model, "-aem", destination, *_keys(keys))

    def get(self, folder: Path, *keys: str, model: str = "-S") -> Answer:
        """C-GET into `folder`."""
        return self._run("getscu", model, "-od", folder, *_keys(keys))

    def _run(self, tool: str, *options: str | Path, arguments: Sequence[Path] = (), verbosity: str = "-d") -> Answer:
        command = [_tool(tool), verbosity, "-aet", self.calling, "-aec", self.called, *options]
        command += ["127.0.0.1", str(self.port), *arguments]
        run = subprocess.run(
            list(map(str, command)), capture_output=True, timeout=_TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
        return Answer(run.returncode, (run.stdout + run.stderr).decode(errors="replace"))


class StoreScp:
    """`storescp`, which writes what it receives into a folder, byte for byte."""

    def __init__(self, folder: Path, ae_title: str, options: Sequence[str] = (), mark: str = "") -> None:
        """Starts it on a free port; returns once it listens."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ae_title = ae_title
        self.port = free_port()
        command = [_tool("storescp"), "-aet", ae_title, "-od", str(folder), "+B", *options, str(self.port)]
        self._process = Process(command, folder.with_name(f"{folder.name}.log"), mark=mark)
        wait_until(lambda: Peer(self.port, called=ae_title).echo().exit_code == 0, 20, "storescp answers")

    def received(self) -> list[Dataset]:
        """What it has received, in no particular order."""
        return [dcmread(path) for path in self.folder.iterdir()]

    def stop(self) -> None:
        self._process.stop()


def _keys(keys: Sequence[str]) -> list[str]:
    return [word for key in keys for word in ("-k", key)]


def _tool(name: str) -> str:
    path = shutil.which(name)
    if not path:
        raise FileNotFoundError(f"DCMTK's {name} is not installed; run `make setup`")
    return path
