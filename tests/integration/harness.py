"""What integration tests stand on: a real Orthanc with Isen, a real S3 server, and a gate between the two."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

from pydicom import dcmread

from backend.spool_note import FILE as NOTED_SPOOL
from backend.stack.dcmtk import Peer
from backend.stack.orthanc import APPLICATION, Orthanc, configuration, merged
from backend.stack.ports import free_port
from backend.stack.processes import marked, wait_until
from backend.stack.s3_server import S3Server
from tests.fakes.gate import Gate

UPLOAD_DEADLINE = 60.0  # seconds for everything pending to reach S3
END_DEADLINE = 5.0  # seconds for the children of a dead Orthanc to be gone


def _script(path: Path) -> dict[str, Any]:
    """Options of an Orthanc, old or new, that executes this script."""
    return {"PythonScript": str(path), "Python": {"Path": str(path), "AllowThreads": True}}


NEWER = _script(APPLICATION / "orthanc_plugin.py")
OLDER = _script(APPLICATION / "tests" / "fakes" / "older_plugin.py")  # with nothing but the first storage area
REMEMBERING = _script(APPLICATION / "tests" / "fakes" / "remembering_plugin.py")  # with `/test/remembered`


class Node:
    """One Orthanc with Isen in a fresh folder, its own bucket, and a gate in front of S3 if asked for."""

    def __init__(
        self, folder: Path, s3: S3Server, changes: Mapping[str, Any] | None = None, *, gated: bool = False
    ) -> None:
        """`changes` are merged into the configuration of `backend.stack`; nothing is started yet."""
        self.folder = folder
        self.s3 = s3
        self.bucket = f"node-{uuid4().hex}"
        self.gate = Gate(free_port(), ("127.0.0.1", s3.port)) if gated else None
        base = configuration(folder, self.gate.url if self.gate else s3.url, free_port(), free_port())
        base = merged(base, {"Isen": {"Storage": {"BucketName": self.bucket, "RemovalGracePeriod": 0}}})
        self.orthanc = Orthanc(folder, merged(base, changes or {}), mark=uuid4().hex)
        self.peer = Peer(self.orthanc.dicom_port)

    def start(self) -> Node:
        """Start Orthanc and wait until its SCP answers as well."""
        self.orthanc.start()
        if self.orthanc.settings["Isen"].get("Dicom", {}).get("Enabled", True):
            wait_until(self._accepts_associations, 20, "a worker accepts associations")
        return self

    def stop(self) -> int:
        """Stop Orthanc in order; returns its exit code.

        Raises:
            NotInTime: a process of this node is left.
        """
        code = self.orthanc.stop()
        self.wait_for_the_end()
        return code

    def close(self) -> None:
        """Stop for good."""
        try:
            self.stop()
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            if self.gate:
                self.gate.close()

    def wait_for_the_end(self) -> None:
        """Wait until no process of this node is left."""
        wait_until(lambda: not self.processes(), END_DEADLINE, "every process of this node has ended")

    def processes(self) -> dict[int, str]:
        """Every running process of this node: process id → command line."""
        return marked(self.orthanc.mark)

    def child(self, module: str) -> int:
        """The process id of a child that runs `module`."""
        return min(pid for pid, command in self.processes().items() if f"-m {module}" in command)

    def status(self) -> dict[str, Any]:
        """`/isen/status`."""
        status: dict[str, Any] = self.orthanc.get_json("/isen/status")
        return status

    def spool_status(self) -> dict[str, Any]:
        """The part of `/isen/status` on the spool."""
        spool: dict[str, Any] = self.status()["Storage"]["Spool"]
        return spool

    def child_status(self, module: str, *, other_than: int) -> dict[str, Any]:
        """What `/isen/status` says of the child that runs `module` and was started last; empty while there is none."""
        status = self.status()
        children = [status["Storage"]["Transfer"]] if module == "backend.transfer" else status["Dicom"]["Workers"]
        started = [child for child in children if child["Restarts"] > 0 and child["Pid"] not in (None, other_than)]
        return started[-1] if started else {}

    def set_aside(self, *folders: str) -> None:
        """Empty local folders, as if the machine were a new one; Orthanc must not run."""
        for folder in folders:
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        if "spool" in folders:
            (self.folder / "index" / NOTED_SPOOL).unlink(missing_ok=True)  # yes, it is lost

    def attachments_of_an_image(self) -> list[str]:
        """Their names. A storage area that cannot read ranges gets the head of the file as well."""
        return ["dicom"] if self.status()["Storage"]["StorageArea"] == 3 else ["dicom", "dicom-until-pixel-data"]

    def instances(self) -> list[str]:
        """Orthanc's ids of all instances in its index."""
        ids: list[str] = self.orthanc.get_json("/instances")
        return ids

    def file(self, instance: str) -> bytes:
        """`/instances/{id}/file`."""
        return self.orthanc.get(f"/instances/{instance}/file")

    def keys(self) -> list[str]:
        """Every key in the bucket."""
        return self.s3.keys(self.bucket)

    def images_in_bucket(self) -> dict[str, bytes]:
        """SOPInstanceUID → object, of every DICOM file in the bucket."""
        found = {}
        for key in self.keys():
            if not key.endswith(".dcm"):
                continue
            try:
                content = self.s3.object(self.bucket, key)
            except HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
                continue  # deleted since it was listed: Orthanc drops what it has written of an image it already has
            found[sop_instance_uid(content)] = content
        return found

    def pending(self) -> list[str]:
        """Names of the attachments owed to S3."""
        return sorted(os.listdir(self.folder / "spool" / "pending"))

    def incoming(self) -> list[str]:
        """Names of the attachments that are being written."""
        return sorted(os.listdir(self.folder / "spool" / "incoming"))

    def wait_until_uploaded(self, deadline: float = UPLOAD_DEADLINE) -> None:
        """Wait until nothing is owed to S3."""
        wait_until(lambda: not self.pending(), deadline, "everything pending is in S3")

    def wait_for_object_store(self, state: str, deadline: float = 30) -> None:
        """Wait until `/isen/status` says that S3 is in this state."""
        wait_until(
            lambda: self.status()["Storage"]["ObjectStore"]["State"] == state, deadline, f"the object store is {state}"
        )

    def _accepts_associations(self) -> bool:
        return self.peer.echo().exit_code == 0


NodeMaker = Callable[..., Node]


def sop_instance_uid(content: bytes) -> str:
    """SOPInstanceUID of an encoded DICOM file, read from its file meta information."""
    return str(dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)
