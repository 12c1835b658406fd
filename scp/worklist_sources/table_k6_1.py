"""PS3.4 Table K.6-1, Attributes for the Modality Worklist C-FIND Identifier, as far as Isen has to know it.

A source holds whatever its author wrote: attributes of the table with type 1C, 2C or 3, and any other attribute, are
supported where an entry holds them. Listed here are those that are supported even where an entry has no value.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pydicom.datadict import tag_for_keyword

from scp.matching import SupportedAttributes


class Row(NamedTuple):
    """One line of the table."""

    keyword: str
    matching_key: str  # R required, O optional
    return_key: str  # type 1: never empty; type 2: empty if unknown


SCHEDULED_PROCEDURE_STEP: Final = (
    Row("ScheduledStationAETitle", "R", "1"),
    Row("ScheduledProcedureStepStartDate", "R", "1"),
    Row("ScheduledProcedureStepStartTime", "R", "1"),
    Row("Modality", "R", "1"),
    Row("ScheduledPerformingPhysicianName", "R", "2"),
    Row("ScheduledStationName", "O", "2"),
    Row("ScheduledProcedureStepLocation", "O", "2"),
    Row("ScheduledProcedureStepID", "O", "1"),
)
OTHERS: Final = (
    Row("PatientName", "R", "1"),
    Row("PatientID", "R", "1"),
    Row("RequestedProcedureID", "O", "1"),
    Row("StudyInstanceUID", "O", "1"),
    Row("ReferencedStudySequence", "O", "2"),
    Row("RequestedProcedurePriority", "O", "2"),
    Row("PatientTransportArrangements", "O", "2"),
    Row("AccessionNumber", "O", "2"),
    Row("RequestingPhysician", "O", "2"),
    Row("ReferringPhysicianName", "O", "2"),
    Row("AdmissionID", "O", "2"),
    Row("CurrentPatientLocation", "O", "2"),
    Row("ReferencedPatientSequence", "O", "2"),
    Row("PatientBirthDate", "O", "2"),
    Row("PatientSex", "O", "2"),
    Row("PatientWeight", "O", "2"),
    Row("ConfidentialityConstraintOnPatientDataDescription", "O", "2"),
    Row("PatientState", "O", "2"),
    Row("PregnancyStatus", "O", "2"),
    Row("MedicalAlerts", "O", "2"),
    Row("Allergies", "O", "2"),
    Row("SpecialNeeds", "O", "2"),
)


def tag_of(keyword: str) -> int:
    """The tag of a keyword of the dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _always_supported(rows: tuple[Row, ...]) -> dict[int, SupportedAttributes]:
    """An optional attribute of type 1 can only be supported where it has a value."""
    return {tag_of(row.keyword): {} for row in rows if row.matching_key == "R" or row.return_key == "2"}


SCHEDULED_PROCEDURE_STEP_SEQUENCE: Final = tag_of("ScheduledProcedureStepSequence")
SUPPORTED: Final[SupportedAttributes] = {
    **_always_supported(OTHERS),
    SCHEDULED_PROCEDURE_STEP_SEQUENCE: _always_supported(SCHEDULED_PROCEDURE_STEP),
}
