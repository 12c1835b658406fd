"""The performed procedure steps that modalities have reported, one file each.

steps/<SHA-256 of the SOP Instance UID>   JSON: see `StoredStep.encode`; read by the plugin's route as it is
outgoing/<the same name>                  empty: something of it is still to be forwarded
refused/<the same name>                   empty: something of it was refused, or given up; the step says what
reported/                                 of scheduled steps, see `scp.performed_procedure.reported`
lock                                      held while a step is changed
forward.lock                              held by the worker that forwards
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset

from scp.durable_folder import DurableFolder, file_name
from scp.performed_procedure.forwarding import Forwarding
from scp.statuses import DUPLICATE_SOP_INSTANCE, RESOURCE_LIMITATION, Refusal

MAXIMUM_LENGTH: Final = 32 * 1024 * 1024  # bytes of a step with what is still to be forwarded; N-SETs add to it
_STEPS: Final = "steps"
_OUTGOING: Final = "outgoing"
_REFUSED: Final = "refused"


@dataclass(frozen=True)
class StoredStep:
    """A step and who reported it."""

    sop_instance_uid: str
    calling_ae_title: str
    created_at: str  # UTC, as Orthanc writes times
    attributes: Dataset  # in UTF-8
    changed_at: str = ""  # the same; empty = when it was created
    forwarding: Forwarding | None = None  # None: nobody else is told

    def encode(self) -> bytes:
        """`Attributes` is the DICOM JSON Model (PS3.18 F.2)."""
        document: dict[str, Any] = {
            "SOPInstanceUID": self.sop_instance_uid,
            "PerformedProcedureStepStatus": self.attributes.PerformedProcedureStepStatus,
            "RemoteAET": self.calling_ae_title,
            "CreationDate": self.created_at,
            "ChangeDate": self.changed_at or self.created_at,
            "Attributes": self.attributes.to_json_dict(),
        }
        if self.forwarding is not None:
            document["Forwarding"] = self.forwarding.to_json()
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, content: bytes) -> StoredStep:
        document = json.loads(content)
        attributes = Dataset.from_json(document["Attributes"])
        return cls(
            document["SOPInstanceUID"],
            document["RemoteAET"],
            document["CreationDate"],
            attributes,
            document["ChangeDate"],
            Forwarding.from_json(document["Forwarding"]) if "Forwarding" in document else None,
        )


class PerformedProcedureSteps:
    """Thread-safe, and shared by the workers."""

    def __init__(self, directory: Path) -> None:
        self._folder = DurableFolder(directory, _STEPS, _OUTGOING, _REFUSED)

    def create(self, step: StoredStep) -> None:
        """Keep a new step; on stable storage when this returns. Call it while `changing`.

        Raises:
            Refusal: 0111, there is one of this SOP Instance UID; 0213, the disk is full, or the step too large.
        """
        try:
            content = _encoded(step)
            self._mark(step)
            self._folder.add(_STEPS, file_name(step.sop_instance_uid), content)
        except FileExistsError:
            raise Refusal(DUPLICATE_SOP_INSTANCE, "the SOP instance exists") from None
        except OSError as error:
            raise Refusal(RESOURCE_LIMITATION, "the step cannot be kept") from error

    def get(self, sop_instance_uid: str) -> StoredStep | None:
        """The step as it is now."""
        return self.named(file_name(sop_instance_uid))

    def named(self, name: str) -> StoredStep | None:
        """The step in the file of this name."""
        content = self._folder.read(_STEPS, name)
        return None if content is None else StoredStep.decode(content)

    def outgoing(self) -> list[str]:
        """The names of the steps of which something is to be forwarded, or was until a moment ago; the oldest first."""
        return self._folder.names(_OUTGOING)

    def settle(self, name: str, change: Callable[[Forwarding], Forwarding]) -> None:
        """Keep what has become of the first message that was to be forwarded.

        Raises:
            OSError: the disk is full; the step is as it was.
        """
        with self.changing():
            step = self.named(name)
            if step is not None and step.forwarding is not None and step.forwarding.pending:
                step = replace(step, forwarding=change(step.forwarding))
                if step.forwarding and step.forwarding.is_refused:
                    self._folder.put(_REFUSED, name, b"")
                self._folder.put(_STEPS, name, step.encode())
            if step is None or step.forwarding is None or not step.forwarding.pending:
                self._folder.remove(_OUTGOING, name)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other worker forwards, and keep them away while the block runs."""
        with self._locked("forward.lock"):
            yield

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While the block runs nobody else, in any worker, changes a step."""
        with self._locked("lock"):
            yield

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self._folder.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def replace(self, step: StoredStep) -> None:
        """Keep a changed step; on stable storage when this returns. Call it while `changing`.

        Raises:
            Refusal: 0213, the disk is full, or the step too large; it is as it was.
        """
        try:
            content = _encoded(step)
            self._mark(step)
            self._folder.put(_STEPS, file_name(step.sop_instance_uid), content)
        except OSError as error:
            raise Refusal(RESOURCE_LIMITATION, "the step cannot be kept") from error

    def forget_before(self, time_limit: float) -> int:
        """Drop the steps that nobody has changed since this Unix time; how many there were."""
        old = [name for name in self._folder.names(_STEPS) if self._folder.changed_at(_STEPS, name) < time_limit]
        for name in old:
            self._folder.remove(_STEPS, name)
            self._folder.remove(_REFUSED, name)
        return len(old)

    def _mark(self, step: StoredStep) -> None:
        """Note that something is to be forwarded before the step says so: a note too many does no harm."""
        if step.forwarding is not None and step.forwarding.pending:
            self._folder.put(_OUTGOING, file_name(step.sop_instance_uid), b"")


def _encoded(step: StoredStep) -> bytes:
    content = step.encode()
    if len(content) > MAXIMUM_LENGTH:
        raise Refusal(RESOURCE_LIMITATION, "the step has grown too large")
    return content


def now() -> str:
    """UTC, as Orthanc writes times."""
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%S")
