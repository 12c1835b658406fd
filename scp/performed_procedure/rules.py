"""What N-CREATE and N-SET of a performed procedure step may do (PS3.4 F.7.2.1, F.7.2.2, Table F.7.2-1).

    none         N-CREATE → IN PROGRESS
    IN PROGRESS  N-SET    → IN PROGRESS, COMPLETED or DISCONTINUED
    the others   final: nothing changes any more

Attributes of type 2 that a modality leaves out count as empty. Attributes that N-SET brings and N-CREATE did not are
taken as well.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydicom.dataset import Dataset

from scp.statuses import (
    INVALID_ATTRIBUTE_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    Refusal,
)

IN_PROGRESS: Final = "IN PROGRESS"
FINAL: Final = ("COMPLETED", "DISCONTINUED")
UTF_8: Final = "ISO_IR 192"
MAXIMUM_SCHEDULED: Final = 100  # scheduled steps of a performed one; the worklist is told of each, one after the other

_CREATED: Final = (  # type 1 of N-CREATE
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)
_ENDED: Final = ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime")  # type 1 of the final state
_NOT_IN_SET: Final = (  # "Not allowed" in N-SET
    "ScheduledStepAttributesSequence",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "ReferencedPatientSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedStationName",
    "PerformedLocation",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
    "StudyID",
)


class NoLongerUpdated(Refusal):
    """N-SET of a step in a final state, PS3.4 Table F.7.2-2."""

    error_id: Final = 0xA710

    def __init__(self) -> None:
        super().__init__(PROCESSING_FAILURE, "Performed Procedure Step Object may no longer be updated")


def created(attributes: Dataset) -> Dataset:
    """The step that N-CREATE makes, in UTF-8.

    Raises:
        Refusal: 0106, 0120, 0121 or 0213 (PS3.7 10.1.5.1.6), the comment names the attribute.
    """
    step = in_utf_8(attributes)
    for keyword in _CREATED:
        _require(step, keyword)
    if step.PerformedProcedureStepStatus != IN_PROGRESS:
        raise Refusal(INVALID_ATTRIBUTE_VALUE, "PerformedProcedureStepStatus is not IN PROGRESS")
    items = _items(step, "ScheduledStepAttributesSequence")
    if len(items) > MAXIMUM_SCHEDULED:
        raise Refusal(RESOURCE_LIMITATION, f"more than {MAXIMUM_SCHEDULED} items in ScheduledStepAttributesSequence")
    for scheduled in items:
        _require(scheduled, "StudyInstanceUID")
    return step


def updated(step: Dataset, changes: Dataset) -> tuple[Dataset, bool]:
    """The step after N-SET, and whether all that was sent was taken: attributes that N-SET may not change are left out.

    Each attribute replaces the one before, a sequence as a whole (F.7.2.2.3).

    Raises:
        NoLongerUpdated: it is in a final state.
        Refusal: 0106, 0120 or 0121 (PS3.7 10.1.3.1.9).
    """
    if step.PerformedProcedureStepStatus in FINAL:
        raise NoLongerUpdated
    changes = in_utf_8(changes)
    allowed = [element for element in changes if element.keyword not in _NOT_IN_SET]
    merged = Dataset()
    merged.update(step)
    for element in allowed:
        merged[element.tag] = element
    _require(merged, "PerformedProcedureStepStatus")
    status = merged.PerformedProcedureStepStatus
    if status not in (IN_PROGRESS, *FINAL):
        raise Refusal(INVALID_ATTRIBUTE_VALUE, "PerformedProcedureStepStatus is none of the three")
    if status in FINAL:
        _check_final(merged)
    return merged, len(allowed) == len(changes)


def scheduled_steps(step: Dataset) -> list[tuple[str, str, str]]:
    """Study Instance UID, Scheduled Procedure Step ID and Accession Number of each item that was scheduled."""
    return [
        (
            str(item.get("StudyInstanceUID") or ""),
            str(item.ScheduledProcedureStepID),
            str(item.get("AccessionNumber") or ""),
        )
        for item in step.ScheduledStepAttributesSequence
        if item.get("ScheduledProcedureStepID")
    ]


def in_utf_8(attributes: Dataset) -> Dataset:
    """The same values in one character set, so that those of N-SET can stand beside those of N-CREATE.

    Raises:
        Refusal: 0106, a value is not what its VR demands.
    """
    try:
        attributes.decode()
        attributes.SpecificCharacterSet = UTF_8
        model = attributes.to_json_dict()  # every value is read now, not when it is too late
        json.dumps(model, allow_nan=False)  # the step is kept and shown as JSON, which has no such numbers
        return Dataset.from_json(model)
    except Exception as error:  # pydicom answers bad values with any exception it likes
        raise Refusal(INVALID_ATTRIBUTE_VALUE, "a value cannot be decoded") from error


def _check_final(step: Dataset) -> None:
    for keyword in _ENDED:
        _require(step, keyword)
    for series in _items(step, "PerformedSeriesSequence"):
        _require(series, "SeriesInstanceUID")
        _require(series, "ProtocolName")


def _items(data_set: Dataset, keyword: str) -> Any:
    _require(data_set, keyword)
    return data_set[keyword].value


def _require(data_set: Dataset, keyword: str) -> None:
    if keyword not in data_set:
        raise Refusal(MISSING_ATTRIBUTE, f"{keyword} is missing")
    value = data_set[keyword].value
    if value is None or not len(str(value).strip()) or (data_set[keyword].VR == "SQ" and not value):
        raise Refusal(MISSING_ATTRIBUTE_VALUE, f"{keyword} is empty")
