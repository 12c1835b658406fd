"""The C-STORE sub-operations of one retrieve request: sent one after the other, counted, reported.

Counters and final statuses are those of PS3.4 Tables C.4-2 and C.4-3. One failed sub-operation never ends the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from scp.orthanc_client import OrthancError
from scp.part10 import NotPart10
from scp.request import Request
from scp.retrieve.read_ahead import EncodedInstance, Reader, read_ahead
from scp.retrieve.selection import Instance
from scp.statuses import (
    CANCEL,
    PENDING,
    SUB_OPERATIONS_FAILED,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
    NoSuitableContext,
)
from scp.upper_layer import AssociationEnded

log = logging.getLogger(__name__)

LONGEST_EXPLICIT_VALUE: Final = 0xFFFE  # bytes; explicit VR has 16 bits for the length of UI
WARNINGS: Final = (0x0001, 0x0107, 0x0116)  # PS3.7 C.3, beside all of 0xBxxx


class SubOperationFailed(Exception):
    """The instance did not arrive; the text tells the operator why."""


def _reason(error: Exception) -> str:
    """What the operator and the requester may read: texts of others' exceptions could quote values."""
    if isinstance(error, SubOperationFailed):
        return str(error)
    is_ours = isinstance(error, (NoSuitableContext, OrthancError, NotPart10))
    return f"{type(error).__name__}: {error}" if is_ours else type(error).__name__


class SubOperations:
    """Counts the sub-operations of one request and sends its responses."""

    def __init__(self, request: Request, total: int) -> None:
        self._request = request
        self._total = total
        self._completed = 0
        self._warning = 0
        self._failed: list[str] = []
        self._reasons: dict[str, None] = {}  # in the order of their appearance

    @property
    def failed(self) -> int:
        return len(self._failed)

    def run(
        self,
        instances: Sequence[Instance],
        reader: Reader,
        send: Callable[[EncodedInstance], int],
    ) -> None:
        """Send `instances`, or the first of them if the request is cancelled meanwhile.

        Raises:
            scp.upper_layer.AssociationEnded: the requester is gone.
        """
        with closing(read_ahead(reader, instances)) as ahead:
            for instance, future in ahead:
                if self._request.is_cancelled:
                    return
                try:
                    with closing(future.result()) as encoded:
                        status = send(encoded)
                    self._count(status)
                except AssociationEnded:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one instance, the others go out
                    reason = _reason(error)
                    self._log(instance, reason)
                    self.fail([instance], reason)

    def _log(self, instance: Instance, reason: str) -> None:
        """One line for each reason: a destination that refuses a class refuses it a thousand times."""
        if reason not in self._reasons:
            log.warning(
                "sub_operation_failed instance=%s calling_ae_title=%r reason=%s",
                instance.orthanc_id,
                self._request.peer.calling_ae_title,
                reason,
            )

    def _count(self, status: int) -> None:
        """Take note of the peer's answer to one C-STORE, and tell the requester."""
        if status == SUCCESS:
            self._completed += 1
        elif status & 0xF000 == 0xB000 or status in WARNINGS:
            self._warning += 1
        else:
            raise SubOperationFailed(f"status 0x{status:04X}")
        self._report()

    def fail(self, instances: Sequence[Instance], reason: str) -> None:
        """Take note that these did not arrive and why, and tell the requester."""
        self._reasons[reason] = None
        self._failed += [instance.sop_instance_uid for instance in instances]
        self._report()

    def finish(self) -> int:
        """Send the final response and return its status."""
        status = self._final_status()
        counters = self._counters()
        if self._reasons:  # the first: PS3.7 C.4 allows it with warnings and failures
            counters["ErrorComment"] = next(iter(self._reasons))
        if status != CANCEL:
            del counters["NumberOfRemainingSuboperations"]
        self._request.respond(status, self._failed_list() if status != SUCCESS else None, **counters)
        return status

    @property
    def _remaining(self) -> int:
        return self._total - self._completed - self._warning - len(self._failed)

    def _counters(self) -> dict[str, Any]:
        return {
            "NumberOfRemainingSuboperations": self._remaining,
            "NumberOfCompletedSuboperations": self._completed,
            "NumberOfFailedSuboperations": len(self._failed),
            "NumberOfWarningSuboperations": self._warning,
        }

    def _report(self) -> None:
        if self._remaining:  # the final response says the rest
            self._request.respond(PENDING, **self._counters())

    def _final_status(self) -> int:
        if self._remaining:
            return CANCEL
        if self._failed and len(self._failed) == self._total:
            return SUB_OPERATIONS_FAILED
        return SUB_OPERATIONS_WARNING if self._failed or self._warning else SUCCESS

    def _failed_list(self) -> Dataset | None:
        """FailedSOPInstanceUIDList, cut to what its length field can say in explicit VR."""
        if not self._failed:
            return None
        uids = self._failed
        if self._request.context.transfer_syntax != ImplicitVRLittleEndian:
            while len("\\".join(uids)) > LONGEST_EXPLICIT_VALUE:
                uids = uids[: len(uids) * 9 // 10]
        dataset = Dataset()
        dataset.FailedSOPInstanceUIDList = uids
        return dataset
