"""Which of the referenced instances are safe: in Orthanc's index, of that class, and as an object in S3.

Neither spool nor cache count. An instance that is on its way to S3 is undecided, and so is one while S3 cannot be
asked; somebody asks again later.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from scp.orthanc_client import OrthancClient, ResourceMissing
from scp.statuses import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
)
from scp.storage_commitment.transactions import Failures, Reference

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH: Final = 100  # references per question to Orthanc
MISSING_PATIENCE: Final = (
    60.0  # seconds an object may be missing: another Orthanc on the same index may be uploading it
)
_COMMITTED: Final = 0


@dataclass(frozen=True)
class _Instance:
    """One instance of Orthanc's that has the SOP Instance UID asked for."""

    orthanc_id: str
    sop_class_uid: str
    attachment: dict[str, Any]  # Uuid, Size, MD5


class Confirmation:
    """The progress of one request; not thread-safe."""

    def __init__(
        self,
        client: OrthancClient,
        references: Sequence[Reference],
        supports: Callable[[str], bool],
        is_on_its_way: Callable[[str], bool] = lambda _uid: False,
    ) -> None:
        """`supports` says whether we store instances of a SOP class at all, `is_on_its_way` of a SOP Instance UID
        whether Orthanc is still to get an acknowledged instance.
        """
        self._is_on_its_way = is_on_its_way
        self._client = client
        self._supports = supports
        self._undecided = dict.fromkeys(references)  # in their order, each once
        self._failures: Failures = {}
        self._missing_since: dict[str, float] = {}

    def advance(self, is_unwanted: Callable[[], bool] = lambda: False) -> Failures | None:
        """Ask about what is undecided. The failures once all is decided, or None.

        `is_unwanted` is asked before each batch, some tenths of a second apart, and ends it early.

        Raises:
            OrthancError: Orthanc cannot be asked; what was decided stays so.
        """
        for batch in _batches(list(self._undecided)):
            if is_unwanted():
                break
            for reference, reason in self._judge(batch):
                if reason is not None:
                    del self._undecided[reference]
                    if reason != _COMMITTED:
                        self._failures[reference.sop_instance_uid] = reason
        return None if self._undecided else self._failures

    def give_up(self) -> Failures:
        """What is undecided has failed: it cannot be committed with what we have (PS3.3 C.14.1.1)."""
        return {**self._failures, **{one.sop_instance_uid: RESOURCE_LIMITATION for one in self._undecided}}

    def _judge(self, references: Sequence[Reference]) -> Iterator[tuple[Reference, int | None]]:
        # before Orthanc is asked: what leaves the journal between the two questions is in Orthanc for the second
        references = [one for one in references if not self._is_on_its_way(one.sop_instance_uid)]
        found = self._find({one.sop_instance_uid for one in references})
        attachments = [instance.attachment for instances in found.values() for instance in instances]
        states: dict[str, str] = {}
        for batch in _batches(attachments):
            states.update(zip((one["Uuid"] for one in batch), self._client.committed(batch), strict=True))
        for reference in references:
            yield reference, self._reason(reference, found.get(reference.sop_instance_uid, []), states)

    def _reason(self, reference: Reference, instances: Sequence[_Instance], states: dict[str, str]) -> int | None:
        """0 for committed, a Failure Reason, or None for undecided."""
        if not instances:
            return NO_SUCH_SOP_INSTANCE if self._supports(reference.sop_class_uid) else SOP_CLASS_NOT_SUPPORTED
        same = [one for one in instances if one.sop_class_uid == reference.sop_class_uid]
        if not same:
            return CLASS_INSTANCE_CONFLICT
        # one UID under several patients: whichever was meant, all have to be safe
        found = {states[one.attachment["Uuid"]] for one in same}
        if "corrupted" in found:
            return PROCESSING_FAILURE
        if "missing" in found and self._is_lost(reference):
            log.error("committed_object_missing instance=%s", same[0].orthanc_id)
            return NO_SUCH_SOP_INSTANCE
        return _COMMITTED if found == {"committed"} else None

    def _is_lost(self, reference: Reference) -> bool:
        since = self._missing_since.setdefault(reference.sop_instance_uid, time.monotonic())
        return time.monotonic() - since > MISSING_PATIENCE

    def _find(self, sop_instance_uids: set[str]) -> dict[str, list[_Instance]]:
        ids = [
            orthanc_id
            for uid in sop_instance_uids
            for kind, orthanc_id in self._client.lookup(uid)
            if kind == "Instance"
        ]
        found = defaultdict(list)
        for row in self._client.resources("Instance", ids, metadata=True) if ids else []:
            uid = str(row["MainDicomTags"].get("0008,0018", ""))
            if uid in sop_instance_uids:  # the lookup ignores case, which UIDs have none of, and padding
                instance = self._instance(row)
                if instance is not None:
                    found[uid].append(instance)
        return found

    def _instance(self, row: dict[str, Any]) -> _Instance | None:
        """None if it has just been removed."""
        orthanc_id = str(row["ID"])
        try:
            file = self._client.dicom_attachment(orthanc_id)
            sop_class_uid = row.get("Metadata", {}).get("SopClassUid") or self._sop_class_in_file(orthanc_id)
        except ResourceMissing:
            return None
        attachment = {"Uuid": file["Uuid"], "Size": file["CompressedSize"], "MD5": file.get("CompressedMD5", "")}
        return _Instance(orthanc_id, str(sop_class_uid), attachment)

    def _sop_class_in_file(self, orthanc_id: str) -> str:
        """For instances that an Orthanc has stored that did not note the class."""
        return str(self._client.instance_tags(orthanc_id).get("0008,0016", ""))


def _batches(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
