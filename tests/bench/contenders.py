"""The contenders: how each is configured, started on fresh storage, and asked whether it has finished its work.

All of one run live at the same time and take turns, so that a change of the machine's mood meets each of them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from backend.spool_note import FILE as NOTED_SPOOL
from backend.stack.dcmtk import Peer
from backend.stack.orthanc import Orthanc, configuration, merged
from backend.stack.ports import free_port
from backend.stack.processes import marked, wait_until
from tests.bench.distant_s3 import DistantS3

_STARTED: Final = 30.0  # seconds
DESTINATION: Final = "BENCH-STORE"  # AE title of the storescp that C-MOVE sends to
_ATTACHMENT: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(\.dcm)?(\.head)?")
_SAMPLES: Final = Path(__file__).with_name("samples_plugin.py")


@dataclass(frozen=True)
class Surroundings:
    """What every contender is given."""

    folder: Path  # on a real disk; each contender gets a folder below it
    s3: DistantS3
    destination_port: int  # where the storescp listens


@dataclass(frozen=True)
class Recipe:
    """A row of the table of contenders."""

    name: str
    description: str
    settings: Callable[[Surroundings, Path, str], dict[str, Any]]  # folder and bucket → Orthanc's configuration
    environment: Callable[[Surroundings, str], dict[str, str]] = lambda _surroundings, _bucket: {}
    uses_s3: bool = False
    retrieves: bool = True  # it answers C-FIND, C-MOVE and C-GET
    nodelay_senders: bool = False  # its senders have TCP_NODELAY=1 as well


class Contender:
    """One running contender."""

    def __init__(self, recipe: Recipe, surroundings: Surroundings) -> None:
        """Nothing is started yet."""
        self.recipe = recipe
        self.name = recipe.name
        self.bucket = f"bench-{uuid4().hex}"
        self.folder = surroundings.folder / recipe.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if recipe.uses_s3:
            surroundings.s3.create_bucket(self.bucket)
        settings = merged(
            recipe.settings(surroundings, self.folder, self.bucket),
            {"DicomModalities": {"bench": [DESTINATION, "127.0.0.1", surroundings.destination_port]}},
        )
        environment = recipe.environment(surroundings, self.bucket)
        self.orthanc = Orthanc(self.folder, settings, uuid4().hex, environment)
        self.peer = Peer(self.orthanc.dicom_port)

    @property
    def is_isen(self) -> bool:
        """It has `/isen/status`."""
        return "Isen" in self.orthanc.settings

    @property
    def dicom_port(self) -> int:
        """Where its DICOM server listens."""
        return self.orthanc.dicom_port

    def start(self) -> None:
        """Start it; returns when it answers C-ECHO."""
        self.orthanc.start()
        wait_until(lambda: self.peer.echo().exit_code == 0, _STARTED, f"{self.name} answers C-ECHO")

    def stop(self) -> None:
        """End it with everything it has started."""
        self.orthanc.stop()
        wait_until(lambda: not marked(self.orthanc.mark), 10, f"every process of {self.name} has ended")

    def restart(self, *, forget: bool) -> None:
        """Stop and start, which empties Orthanc's memory; `forget` also empties Isen's spool and cache.

        What is to be forgotten must be in S3: call `settle` before.
        """
        self.stop()
        if forget:
            for name in ("spool", "cache"):
                _forget(self.folder / name)
            (self.folder / "index" / NOTED_SPOOL).unlink(missing_ok=True)  # yes, that spool is gone
        self.start()

    def settle(self, deadline: float = 300.0) -> float:
        """Wait until everything is in S3; seconds that took (0 where nothing is done later)."""
        if not self.is_isen:
            return 0.0
        start = time.monotonic()
        received = self.folder / "spool" / "received" / "pending"
        if received.is_dir():
            wait_until(lambda: not any(received.iterdir()), deadline, f"Orthanc of {self.name} has everything")
        pending = self.folder / "spool" / "pending"
        wait_until(lambda: not any(pending.iterdir()), deadline, f"the spool of {self.name} is empty")
        return time.monotonic() - start

    def drop(self, s3: DistantS3) -> None:
        """Give back the disk and the memory of all images that it holds; it may not be asked for them any more.

        Call `settle` before. Its index is left, and what it could serve from memory.
        """
        if self.recipe.uses_s3:
            s3.empty(self.bucket)
        for path in self.folder.rglob("*"):
            if _ATTACHMENT.match(path.name) and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):  # its minute in `uploaded/` is over
                    os.truncate(path, 0)

    def pending(self) -> int:
        """Attachments that are not in S3 yet."""
        return sum(1 for _ in (self.folder / "spool" / "pending").iterdir()) if self.is_isen else 0

    def processes(self) -> dict[int, str]:
        """Its processes: id → short name."""
        return {pid: _short_name(command) for pid, command in marked(self.orthanc.mark).items()}

    def instances(self) -> int:
        """How many instances its index holds."""
        count: int = self.orthanc.get_json("/statistics")["CountInstances"]
        return count

    def find(self, level: str, **query: str) -> list[str]:
        """Orthanc's identifiers of matching resources."""
        body = json.dumps({"Level": level, "Query": query}).encode()
        found: list[str] = json.loads(self.orthanc.post("/tools/find", body))
        return found


def _forget(folder: Path) -> None:
    """Have the folder gone and its room free, with the inodes kept until the benchmark ends.

    An ext4 without journal, as virtual machines have it, goes through the inodes that were deleted in the last minutes
    whenever a file is made: 0.7 ms for each after a few thousand. Nobody's old images were deleted here a moment ago.
    """
    if not folder.exists():  # Orthanc without Isen has neither
        return
    aside = folder.rename(folder.with_name(f"{folder.name}-{uuid4().hex}"))
    for path in aside.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def _short_name(command: str) -> str:
    if "-m " in command:
        return command.partition("-m ")[2].partition(" ")[0]
    return Path(command.partition(" ")[0]).name


def _plain(_surroundings: Surroundings, folder: Path, _bucket: str) -> dict[str, Any]:
    """Orthanc as Debian installs it: the sample configuration changes nothing that matters here."""
    return {
        "Name": "Orthanc",
        "StorageDirectory": str(folder / "index"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": free_port(),
        "RemoteAccessAllowed": False,
        "DicomPort": free_port(),
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
    }


def _samples(surroundings: Surroundings, folder: Path, bucket: str) -> dict[str, Any]:
    plugins = configuration(folder, surroundings.s3.url, 0, 0)["Plugins"]
    changes = {"DicomServerEnabled": False, "Plugins": plugins, "PythonScript": str(_SAMPLES)}
    return merged(_plain(surroundings, folder, bucket), changes)


def _samples_environment(surroundings: Surroundings, bucket: str) -> dict[str, str]:
    return {
        "BENCH_S3_ENDPOINT": surroundings.s3.url,
        "BENCH_S3_BUCKET": bucket,
        "AWS_ACCESS_KEY_ID": surroundings.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": surroundings.s3.secret_key,
        "BENCH_PACKAGES": sysconfig.get_path("purelib"),
    }


def _nodelay(_surroundings: Surroundings, _bucket: str) -> dict[str, str]:
    return {"TCP_NODELAY": "1"}


def _isen(durability: str, acknowledge: str = "Stored") -> Callable[[Surroundings, Path, str], dict[str, Any]]:
    def settings(surroundings: Surroundings, folder: Path, bucket: str) -> dict[str, Any]:
        base = configuration(folder, surroundings.s3.url, free_port(), free_port())
        storage = {
            "BucketName": bucket,
            "CreateBucket": False,
            "AccessKey": surroundings.s3.access_key,
            "SecretKey": surroundings.s3.secret_key,
            "Durability": durability,
        }
        return merged(
            base, {"Isen": {"Storage": storage, "Dicom": {"MaximumAssociations": 600, "Acknowledge": acknowledge}}}
        )

    return settings


ORTHANC: Final = "orthanc"
ORTHANC_NODELAY: Final = "orthanc-nodelay"
ORTHANC_NODELAY_BOTH: Final = "orthanc-nodelay-both"
SAMPLES: Final = "samples"
ISEN: Final = "isen"
ISEN_OBJECTSTORE: Final = "isen-objectstore"
ISEN_RECEIVED: Final = "isen-received"

RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe(ORTHANC, "Orthanc, its own DICOM server, local disk, as installed", _plain),
        Recipe(
            ORTHANC_NODELAY,
            "the same with TCP_NODELAY=1 in its environment, not in that of the senders, who are modalities",
            _plain,
            _nodelay,
        ),
        Recipe(
            ORTHANC_NODELAY_BOTH,
            "the same with TCP_NODELAY=1 for the senders too, which is nobody's modality",
            _plain,
            _nodelay,
            nodelay_senders=True,
        ),
        Recipe(
            SAMPLES,
            "the samples of the Python plugin's documentation: pynetdicom and boto3 inside Orthanc",
            _samples,
            _samples_environment,
            uses_s3=True,
            retrieves=False,
        ),
        Recipe(ISEN, 'Isen, "Durability": "Spool"', _isen("Spool"), uses_s3=True),
        Recipe(ISEN_OBJECTSTORE, 'Isen, "Durability": "ObjectStore"', _isen("ObjectStore"), uses_s3=True),
        Recipe(ISEN_RECEIVED, 'Isen, "Acknowledge": "Received"', _isen("Spool", "Received"), uses_s3=True),
    )
}
