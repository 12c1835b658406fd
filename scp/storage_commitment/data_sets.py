"""The data sets of storage commitment: Action Information and Event Information (PS3.4 Tables J.3-1 and J.3-2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from scp.statuses import INVALID_ARGUMENT_VALUE, Refusal
from scp.storage_commitment.transactions import Failures, Reference

STORAGE_COMMITMENT_PUSH_MODEL: Final = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")  # PS3.4 J.3.5
REQUEST_STORAGE_COMMITMENT: Final = 1  # Action Type ID, PS3.4 J.3.2.1
COMPLETED: Final = 1  # Event Type ID, PS3.4 J.3.3.1: every instance is committed
FAILURES_EXIST: Final = 2

_UID: Final = re.compile(r"[0-9.]{1,64}")


def transaction_uid_of(information: Dataset) -> str:
    """Raises: Refusal: there is none."""
    return _uid(information, "TransactionUID")


def references_of(information: Dataset, keyword: str) -> tuple[Reference, ...]:
    """The items of a sequence of references; none if it is absent or empty.

    Raises:
        Refusal: an item names no instance.
    """
    items = information.get(keyword) or []
    if not isinstance(items, Sequence | list):
        raise Refusal(INVALID_ARGUMENT_VALUE, f"{keyword} is not a sequence")
    return tuple(Reference(_uid(one, "ReferencedSOPClassUID"), _uid(one, "ReferencedSOPInstanceUID")) for one in items)


def failures_of(information: Dataset) -> Failures:
    """SOP Instance UID and Failure Reason of each item of the Failed SOP Sequence."""
    failures: Failures = {}
    for item in information.get("FailedSOPSequence") or []:
        try:
            reason = int(item.FailureReason)
        except (AttributeError, TypeError, ValueError):
            raise Refusal(INVALID_ARGUMENT_VALUE, "FailureReason is missing or no number") from None
        failures[_uid(item, "ReferencedSOPInstanceUID")] = reason
    return failures


def event_information(
    transaction_uid: str, references: tuple[Reference, ...], failures: Mapping[str, int], retrieve_ae_title: str
) -> tuple[int, Dataset]:
    """Event Type ID and Event Information: every reference of the request, in one sequence or the other (J.3.3.1.2)."""
    event = Dataset()
    event.TransactionUID = transaction_uid
    committed = [_item(one) for one in references if one.sop_instance_uid not in failures]
    if committed:
        event.RetrieveAETitle = retrieve_ae_title
        event.ReferencedSOPSequence = committed
    failed = []
    for one in references:
        if one.sop_instance_uid in failures:
            failed.append(_item(one))
            failed[-1].FailureReason = failures[one.sop_instance_uid]
    if failed:
        event.FailedSOPSequence = failed
    return (FAILURES_EXIST if failed else COMPLETED), event


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _uid(data_set: Dataset, keyword: str) -> str:
    value = str(data_set.get(keyword) or "").strip(" \0")
    if not _UID.fullmatch(value):
        raise Refusal(INVALID_ARGUMENT_VALUE, f"{keyword} is missing or no UID")
    return value
