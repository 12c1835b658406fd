"""The performed procedure steps that modalities have reported, one file each.

steps/<SHA-256 of the SOP Instance UID>   JSON: see `StoredStep.encode`; read by the plugin's route as it is
lock                                      held while a step is changed
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset

from scp.durable_folder import DurableFolder, file_name
from scp.statuses import DUPLICATE_SOP_INSTANCE, RESOURCE_LIMITATION, Refusal

_STEPS: Final = "steps"


@dataclass(frozen=True)
class StoredStep:
    """A step and who reported it."""

    sop_instance_uid: str
    calling_ae_title: str
    created_at: str  # UTC, as Orthanc writes times
    attributes: Dataset  # in UTF-8

    def encode(self) -> bytes:
        """`Attributes` is the DICOM JSON Model (PS3.18 F.2)."""
        document: dict[str, Any] = {
            "SOPInstanceUID": self.sop_instance_uid,
            "PerformedProcedureStepStatus": self.attributes.PerformedProcedureStepStatus,
            "RemoteAET": self.calling_ae_title,
            "CreationDate": self.created_at,
            "ChangeDate": now(),
            "Attributes": self.attributes.to_json_dict(),
        }
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, content: bytes) -> StoredStep:
        document = json.loads(content)
        attributes = Dataset.from_json(document["Attributes"])
        return cls(document["SOPInstanceUID"], document["RemoteAET"], document["CreationDate"], attributes)


class PerformedProcedureSteps:
    """Thread-safe, and shared by the workers."""

    def __init__(self, directory: Path) -> None:
        self._folder = DurableFolder(directory, _STEPS)

    def create(self, step: StoredStep) -> None:
        """Keep a new step; on stable storage when this returns.

        Raises:
            Refusal: 0111, there is one of this SOP Instance UID; 0213, the disk is full.
        """
        try:
            self._folder.add(_STEPS, file_name(step.sop_instance_uid), step.encode())
        except FileExistsError:
            raise Refusal(DUPLICATE_SOP_INSTANCE, "the SOP instance exists") from None
        except OSError as error:
            raise Refusal(RESOURCE_LIMITATION, "the step cannot be kept") from error

    def get(self, sop_instance_uid: str) -> StoredStep | None:
        """The step as it is now."""
        content = self._folder.read(_STEPS, file_name(sop_instance_uid))
        return None if content is None else StoredStep.decode(content)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While the block runs nobody else, in any worker, changes a step."""
        descriptor = os.open(self._folder.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def replace(self, step: StoredStep) -> None:
        """Keep a changed step; on stable storage when this returns.

        Raises:
            Refusal: 0213, the disk is full; the step is as it was.
        """
        try:
            self._folder.put(_STEPS, file_name(step.sop_instance_uid), step.encode())
        except OSError as error:
            raise Refusal(RESOURCE_LIMITATION, "the step cannot be kept") from error

    def forget_before(self, time_limit: float) -> int:
        """Drop the steps that nobody has changed since this Unix time; how many there were."""
        old = [name for name in self._folder.names(_STEPS) if self._folder.changed_at(_STEPS, name) < time_limit]
        for name in old:
            self._folder.remove(_STEPS, name)
        return len(old)


def now() -> str:
    """UTC, as Orthanc writes times."""
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%S")
