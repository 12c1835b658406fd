"""Orders in HL7 messages as worklist attributes (IHE RAD TF-2x Appendix B; RAD-4, RAD-13).

ORM^O01 and OMG^O19: one ORC/OBR group is one requested procedure with one step. OMI^O23: each IPC segment of a group is
one step. Every function answers None for what the message does not say and "" for what it deletes (`""`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from config.settings import Hl7Settings
from scp.hl7.errors import DATA_TYPE, REQUIRED_FIELD_MISSING, SEGMENT_SEQUENCE, TABLE_VALUE, Rejected
from scp.hl7.message import Message, Segment

TYPES: Final = ("ORM^O01", "OMG^O19", "OMI^O23")
NULL: Final = '""'

Values = dict[str, Any]  # keyword → value, None where the message says nothing

_PRIORITIES: Final = {"S": "STAT", "A": "HIGH", "P": "HIGH", "C": "HIGH", "R": "ROUTINE", "T": "MEDIUM"}
_SEXES: Final = {"M": "M", "F": "F", "O": "O", "A": "O", "U": "", "N": ""}
_TIME: Final = re.compile(r"(\d{8})(?:(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,4})?)?)?))?([+-]\d{4})?", re.ASCII)
# ORC-1 → ScheduledProcedureStepStatus; None: ORC-5 decides
_CONTROLS: Final[dict[str, str | None]] = {
    "NW": "SCHEDULED", "SN": "SCHEDULED", "XO": None, "XX": None, "SC": None,
    "CA": "CANCELED", "OC": "CANCELED", "DC": "DISCONTINUED", "OD": "DISCONTINUED",
}  # fmt: skip
_STATUSES: Final = {
    "": "SCHEDULED", "SC": "SCHEDULED", "IP": "SCHEDULED", "HD": "SCHEDULED",
    "CM": "COMPLETED", "CA": "CANCELED", "DC": "DISCONTINUED",
}  # fmt: skip
_ENTITY_ID_TYPES: Final = ("DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500")  # PS3.3 Table 10-17
_DESCRIPTION: Final = 64  # characters of VR LO; a description is cut, an identifier never


@dataclass(frozen=True)
class Step:
    """What a message says about one scheduled procedure step."""

    order: str  # what all steps of the order have in common
    step_id: str  # empty: the message does not tell
    status: str
    study: Values = field(repr=False)
    step: Values = field(repr=False)

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return self.status == "SCHEDULED"


def steps_of(message: Message, settings: Hl7Settings) -> list[Step]:
    """Every step of a message, in order.

    Raises:
        Rejected: it lacks what an order must have.
    """
    kind = message.check(TYPES)
    patient: Values = {}
    groups: list[_Group] = []
    for segment in message.segments():
        if segment.name == "PID":
            patient.update(_patient(segment))
        elif segment.name == "PV1":
            patient.update({name: value for name, value in _visit(segment).items() if value is not None})
        elif segment.name == "ORC":
            groups.append(_Group(segment))
        elif groups:
            groups[-1].add(segment)
    if "PatientID" not in patient:
        raise Rejected("AE", SEGMENT_SEQUENCE, "PID", 0, "the message has no PID segment")
    if not groups:
        raise Rejected("AE", SEGMENT_SEQUENCE, "ORC", 0, "the message has no ORC segment")
    return [step for group in groups for step in group.steps(patient, settings, by_ipc=kind == "OMI^O23")]


class _Group:
    """One ORC and the segments that belong to it."""

    def __init__(self, orc: Segment) -> None:
        self._orc = orc
        self._obr: Segment | None = None
        self._others: dict[str, Segment] = {}
        self._ipcs: list[Segment] = []
        self._comments: list[str] = []

    def add(self, segment: Segment) -> None:
        if segment.name == "OBR" and self._obr is None:
            self._obr = segment
        elif segment.name == "IPC":
            self._ipcs.append(segment)
        elif segment.name == "NTE":
            self._comments.append(segment.text(3))
        else:
            self._others.setdefault(segment.name, segment)

    def steps(self, patient: Values, settings: Hl7Settings, *, by_ipc: bool) -> Iterator[Step]:
        obr, status = self._obr, _status(self._orc)
        if obr is None:
            raise Rejected("AE", SEGMENT_SEQUENCE, "OBR", 0, "an ORC segment has no OBR segment")
        if by_ipc and not self._ipcs:
            raise Rejected("AE", SEGMENT_SEQUENCE, "IPC", 0, "an order has no IPC segment")
        ids = {"placer": _first(_id(self._orc, 2), _id(obr, 2)), "filler": _first(_id(self._orc, 3), _id(obr, 3))}
        accession = _value(obr, 18) if not by_ipc else _value(self._ipcs[0], 1)
        order = next((f"{kind} {number}" for kind, number in ids.items() if number), None)
        order = order or (f"accession {accession}" if accession else None)
        if order is None:
            raise Rejected("AE", REQUIRED_FIELD_MISSING, "ORC", 2, "the order has no placer or filler order number")
        study = {**patient, **self._study(obr)}
        for source in self._ipcs if by_ipc else [obr]:
            timing = self._timing(obr)
            more, step = _of_ipc(source) if by_ipc else self._of_obr(source, settings)
            step = {**step, **timing, "ScheduledPerformingPhysicianName": _nested_name(obr, 34)}
            step["ScheduledProcedureStepStatus"] = status
            _choose_station(step, settings)
            yield Step(order, step["ScheduledProcedureStepID"] or "", status, {**study, **more}, step)

    def _study(self, obr: Segment) -> Values:
        text = _cut(_value(obr, 44, 2))
        comments = "\n".join(filter(None, self._comments))
        return {
            "PlacerOrderNumberImagingServiceRequest": _first(_value(self._orc, 2), _value(obr, 2)),
            "FillerOrderNumberImagingServiceRequest": _first(_value(self._orc, 3), _value(obr, 3)),
            "RequestingPhysician": _name(obr, 16),
            "PatientState": _cut(_first(_value(obr, 12, 2), _value(obr, 12))),
            "MedicalAlerts": _cut(_value(obr, 13)),
            "PatientTransportArrangements": _cut(_value(obr, 30)),
            "ReasonForTheRequestedProcedure": _cut(_first(_value(obr, 31, 2), _value(obr, 31))),
            "RequestedProcedureCodeSequence": _code(obr, 44, 1) or _code(obr, 4, 1),
            "RequestedProcedureDescription": text if text is not None else _cut(_value(obr, 4, 2)),
            "RequestedProcedurePriority": self._priority(obr),
            "RequestedProcedureComments": comments[:10240] or None,
        }

    def _of_obr(self, obr: Segment, settings: Hl7Settings) -> tuple[Values, Values]:
        first = 4 if settings.alternate_protocol_code and obr.text(4, 4) else 1
        zds = self._others.get("ZDS")
        study = {
            "AccessionNumber": _value(obr, 18),
            "RequestedProcedureID": _value(obr, 19),
            "StudyInstanceUID": _value(zds, 1) if zds else None,
        }
        step = {
            "ScheduledProcedureStepID": _value(obr, 20),
            "Modality": _value(obr, 24),
            "ScheduledProtocolCodeSequence": _code(obr, 4, first),
            "ScheduledProcedureStepDescription": _cut(_value(obr, 4, first + 1)),
            "ScheduledStationAETitle": _value(self._orc, 18),
        }
        return study, step

    def _timing(self, obr: Segment) -> Values:
        """When the step is to begin: ORC-7.4, TQ1-7, OBR-27.4 or OBR-36, whichever comes first."""
        tq1 = self._others.get("TQ1")
        text = _first(_value(self._orc, 7, 4), _value(tq1, 7) if tq1 else None, _value(obr, 27, 4), _value(obr, 36))
        if not text:
            return {}
        found = _TIME.fullmatch(text)
        if not found:
            raise Rejected("AE", DATA_TYPE, "TQ1" if tq1 else "ORC", 7, "the start time is no time")
        day, clock, _ = found.groups()
        return {"ScheduledProcedureStepStartDate": day, "ScheduledProcedureStepStartTime": clock or None}

    def _priority(self, obr: Segment) -> str | None:
        tq1 = self._others.get("TQ1")
        code = _first(_value(self._orc, 7, 6), _value(tq1, 9) if tq1 else None, _value(obr, 27, 6), _value(obr, 5))
        return _PRIORITIES.get((code or "")[:1])


def _of_ipc(ipc: Segment) -> tuple[Values, Values]:
    study = {
        "AccessionNumber": _value(ipc, 1),
        "IssuerOfAccessionNumberSequence": _issuer(ipc, 1),
        "RequestedProcedureID": _value(ipc, 2),
        "StudyInstanceUID": _value(ipc, 3),
    }
    step = {
        "ScheduledProcedureStepID": _value(ipc, 4),
        "Modality": _value(ipc, 5),
        "ScheduledProtocolCodeSequence": _code(ipc, 6, 1),
        "ScheduledProcedureStepDescription": _cut(_value(ipc, 6, 2)),
        "ScheduledStationName": _value(ipc, 7),
        "ScheduledProcedureStepLocation": _value(ipc, 8),
        "ScheduledStationAETitle": _value(ipc, 9),
    }
    return study, step


def _status(orc: Segment) -> str:
    control, status = orc.text(1), orc.text(5)
    if control not in _CONTROLS:
        raise Rejected("AE", TABLE_VALUE, "ORC", 1, "the order control code is not supported")
    decided = _CONTROLS[control] or _STATUSES.get(status)
    if decided is None:
        raise Rejected("AE", TABLE_VALUE, "ORC", 5, "the order status is not supported")
    return decided


def _choose_station(step: Values, settings: Hl7Settings) -> None:
    """The station that the message names, or the one that `StationAeTitles` names for the modality."""
    if not step.get("ScheduledStationAETitle"):
        step["ScheduledStationAETitle"] = settings.station_ae_titles.get(step.get("Modality") or "")


def _patient(pid: Segment) -> Values:
    birth = _value(pid, 7)
    sex = _value(pid, 8)
    return {
        "PatientName": _patient_name(pid),
        "PatientID": _value(pid, 3),
        "IssuerOfPatientID": _value(pid, 3, 4),
        "PatientBirthDate": birth if birth is None else birth[:8] if len(birth) >= 8 else "",
        "PatientSex": sex if sex is None else _SEXES.get(sex.upper(), ""),
        "AdmissionID": _value(pid, 18),
    }


def _visit(pv1: Segment) -> Values:
    return {
        "CurrentPatientLocation": _cut(_value(pv1, 3)),
        "ReferringPhysicianName": _name(pv1, 8),
        "PregnancyStatus": 3 if pv1.text(15) == "B6" else None,  # PS3.3 C.2.3: 3 = definitely pregnant
        "AdmissionID": _value(pv1, 19),
    }


def _patient_name(pid: Segment) -> str | None:
    """XPN: each repetition is a group of the DICOM name by its representation code (XPN-8)."""
    groups = {"A": "", "I": "", "P": ""}
    for repetition in range(1, pid.repetitions(5) + 1):
        kind = pid.text(5, 8, repetition=repetition) or "A"
        parts = [pid.text(5, part, repetition=repetition) for part in range(1, 7)]
        if kind in groups and not groups[kind]:
            groups[kind] = _dicom_name(parts)
    return "=".join(groups.values()).rstrip("=") or None


def _name(segment: Segment, number: int) -> str | None:
    """XCN: an identifier, then the name."""
    if segment.text(number) == NULL:
        return ""
    return _dicom_name([segment.text(number, part) for part in range(2, 8)]) or None


def _nested_name(segment: Segment, number: int) -> str | None:
    """NDL: an identifier and the name as subcomponents of the first component."""
    return _dicom_name([segment.text(number, 1, part) for part in range(2, 8)]) or None


def _dicom_name(parts: list[str]) -> str:
    """Family, given, middle, suffix, prefix, degree in HL7's order → PS3.5 6.2.1."""
    cleaned = [re.sub(r"[\^=\\]", " ", part) if part != NULL else "" for part in parts]
    family, given, middle, suffix, prefix, degree = cleaned
    return "^".join([family, given, middle, prefix, " ".join(filter(None, [suffix, degree]))]).rstrip("^")


def _code(segment: Segment, number: int, first: int) -> list[Values] | None:
    """One coded entry (PS3.3 8.8) of three components; None unless it is whole."""
    value, meaning, scheme = (segment.text(number, first + offset) for offset in range(3))
    if not (value and scheme) or len(value) > 16 or len(scheme) > 16:
        return None
    return [{"CodeValue": value, "CodeMeaning": (meaning or value)[:64], "CodingSchemeDesignator": scheme}]


def _issuer(segment: Segment, number: int) -> list[Values] | None:
    """EI: who has assigned an identifier, as HL7v2 Hierarchic Designator Macro (PS3.3 Table 10-17)."""
    keywords = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    issuer = {keyword: _value(segment, number, 2 + place) for place, keyword in enumerate(keywords)}
    if not issuer["UniversalEntityID"] or issuer["UniversalEntityIDType"] not in _ENTITY_ID_TYPES:
        issuer["UniversalEntityID"] = issuer["UniversalEntityIDType"] = None  # type 1C: one not without the other
    named = {keyword: value for keyword, value in issuer.items() if value}
    return [named] if named else None


def _id(segment: Segment, number: int) -> str | None:
    """An order number with its namespace."""
    value = segment.text(number)
    return f"{value}^{segment.text(number, 2)}" if value and value != NULL else None


def _value(segment: Segment, number: int, component: int = 1) -> str | None:
    text = segment.text(number, component)
    return "" if text == NULL else text.replace("\\", " ") or None


def _cut(text: str | None) -> str | None:
    return text and " ".join(text.split())[:_DESCRIPTION]


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value), None)
