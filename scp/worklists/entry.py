"""What may become an entry of the managed worklist: one Scheduled Procedure Step, complete by PS3.4 Table K.6-1.

Attributes of type 1 may not be empty in an answer. Missing ones are repaired where a repair can do no harm (identifiers
are made, a start time that nobody gave is the day's beginning, an unknown station gets a title that no station has);
who the patient is, what is done and when is never made up.
"""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.settings import DicomSettings
from scp.matching import Candidate
from scp.matching.candidate import Undecodable
from scp.matching.decoding import read_candidate
from scp.matching.temporal import DAY, parse_date
from scp.statuses import Refusal
from scp.upper_layer.identifier import decode_identifier, encode_identifier
from scp.upper_layer.limits import Limits
from scp.worklist_sources.entry import IncompleteEntry, entries_of
from scp.worklist_sources.selection import fold
from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, tag_of

UTF_8: Final = "ISO_IR 192"
MAXIMUM_LENGTH: Final = 1024 * 1024  # bytes of an encoded entry; an order has some thousand
LIMITS: Final = Limits.of(DicomSettings())
_NEVER_MADE_UP: Final = ("PatientName", "PatientID")
_NEEDED_OF_STEP: Final = ("Modality", "ScheduledProcedureStepStartDate")


class Unusable(ValueError):
    """The data set cannot become an entry; the message names the attribute, never a value."""


@dataclass(frozen=True)
class Entry:
    """An entry ready to be stored: its encoded data set, and what it is found by."""

    data_set: bytes  # Explicit VR Little Endian, ISO_IR 192
    day: int  # of ScheduledProcedureStepStartDate, counted as `date.toordinal` does
    modality: str
    stations: str  # every ScheduledStationAETitle, a backslash before and after each
    patient_id: str
    accession_number: str
    patient_name: str  # folded, see `fold`
    status: str  # ScheduledProcedureStepStatus


def make_entry(
    dataset: Dataset, station: str, *, force: bool = False, make_study: bool = True
) -> tuple[Entry, list[str]]:
    """The entry that `dataset` is, and the keywords of what had to be filled in. Changes `dataset`.

    Args:
        dataset: with exactly one item in its ScheduledProcedureStepSequence.
        station: ScheduledStationAETitle of steps without one.
        force: a missing Modality is OT, a missing start date today (Orthanc's `Force`).
        make_study: a missing Study Instance UID is made (Orthanc's `SetStudyInstanceUidIfMissing`).

    Raises:
        Unusable: it cannot be answered as PS3.4 K.6.1.2 demands.
    """
    repaired = _complete(dataset, station, force=force, make_study=make_study)
    dataset.SpecificCharacterSet = UTF_8
    try:
        encoded = encode_identifier(dataset, ExplicitVRLittleEndian)
    except Exception as error:  # whatever pydicom raises for a value that has passed its own checks
        raise Unusable("the data set cannot be encoded") from error
    if len(encoded) > MAXIMUM_LENGTH:
        raise Unusable(f"the data set is larger than {MAXIMUM_LENGTH} bytes")
    return _indexed(encoded), repaired


def read_data_set(encoded: bytes) -> Dataset:
    """The data set of a stored entry.

    Raises:
        Refusal: it is damaged.
    """
    return decode_identifier(io.BytesIO(encoded), ExplicitVRLittleEndian, LIMITS)


def candidate_of(encoded: bytes) -> Candidate:
    """A stored entry as a worklist query sees it.

    Raises:
        Refusal: it is damaged.
        Undecodable: the same, in a sequence.
        IncompleteEntry: it lacks an attribute of type 1.
    """
    (candidate,) = entries_of(read_candidate(encoded, ExplicitVRLittleEndian, LIMITS, "utf8"))
    return candidate


def _complete(dataset: Dataset, station: str, *, force: bool, make_study: bool) -> list[str]:
    steps = dataset.get("ScheduledProcedureStepSequence") or []
    if len(steps) != 1:
        raise Unusable(
            "ScheduledProcedureStepSequence must have exactly one item (PS3.4 K.6.1.2.1): make one entry for each "
            "step, all with the same StudyInstanceUID"
        )
    for keyword in _NEVER_MADE_UP:
        if _is_empty(dataset, keyword):
            raise Unusable(f"{keyword} is missing or empty, which PS3.4 Table K.6-1 does not allow")
    for keyword in _NEEDED_OF_STEP:
        if _is_empty(steps[0], keyword) and not force:
            raise Unusable(f"'ScheduledProcedureStepSequence' is missing a '{keyword}'; \"Force\": true fills it in")
    today = datetime.now(UTC).astimezone().strftime("%Y%m%d")
    return [
        *(_fill(dataset, StudyInstanceUID=study_instance_uid()) if make_study else ()),
        *_fill(dataset, RequestedProcedureID=_short_id()),
        *_fill(
            steps[0],
            Modality="OT",
            ScheduledProcedureStepStartDate=today,
            ScheduledProcedureStepStartTime="000000",
            ScheduledStationAETitle=station,
            ScheduledProcedureStepID=_short_id(),
        ),
    ]


def _fill(dataset: Dataset, **values: str) -> list[str]:
    missing = [keyword for keyword in values if _is_empty(dataset, keyword)]
    for keyword in missing:
        setattr(dataset, keyword, values[keyword])
    return missing


def _is_empty(dataset: Dataset, keyword: str) -> bool:
    value: Any = dataset.get(keyword)
    return value is None or not str(value).strip("^= ")


def study_instance_uid() -> str:
    """A new UID under the root of UUIDs (PS3.5 B.2)."""
    return f"2.25.{uuid4().int}"


def _short_id() -> str:
    """An identifier that fits VR SH and that nobody else has made: 64 random bits, 13 characters."""
    return f"{secrets.randbits(64):013X}"[:16]


def _indexed(encoded: bytes) -> Entry:
    """Read the entry back as a worklist query will: what cannot be answered is not stored."""
    try:
        candidate = candidate_of(encoded)
    except (IncompleteEntry, Undecodable) as error:
        raise Unusable(str(error)) from error
    except Refusal as refusal:
        raise Unusable(refusal.comment) from refusal
    (step,) = candidate.attributes[SCHEDULED_PROCEDURE_STEP_SEQUENCE].values
    dates = _values(step, "ScheduledProcedureStepStartDate")
    day = parse_date(dates[0]) if len(dates) == 1 else None
    if day is None:
        raise Unusable("ScheduledProcedureStepStartDate must be one date")
    stations = "".join(f"\\{title}" for title in _values(step, "ScheduledStationAETitle")) + "\\"
    return Entry(
        encoded,
        day.start // DAY,
        _single(step, "Modality"),
        stations,
        _single(candidate, "PatientID"),
        _single(candidate, "AccessionNumber"),
        "=".join(fold(name) for name in _values(candidate, "PatientName")),
        _single(step, "ScheduledProcedureStepStatus"),
    )


def _values(candidate: Candidate, keyword: str) -> tuple[str, ...]:
    attribute = candidate.attributes.get(tag_of(keyword))
    return attribute.values if attribute else ()


def _single(candidate: Candidate, keyword: str) -> str:
    """The value of an attribute that the index looks up as a whole.

    Raises:
        Unusable: it has several.
    """
    values = _values(candidate, keyword)
    if len(values) > 1:
        raise Unusable(f"{keyword} has several values")
    return values[0] if values else ""
