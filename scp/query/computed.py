"""Attributes that no instance holds: counts, modalities and SOP classes of what an entity contains (PS3.4 Table C.3-1).

They are read for a whole batch of entities at once. `/tools/bulk-content` describes all children of its resources, so
each batch costs one or two requests however many entities it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from scp.matching import Attribute
from scp.matching.candidate import AttributeName
from scp.orthanc_client import OrthancClient
from scp.query.entities import Entity
from scp.query.model import Level

PATIENT_STUDIES: Final = 0x00201200  # NumberOfPatientRelatedStudies
PATIENT_SERIES: Final = 0x00201202
PATIENT_INSTANCES: Final = 0x00201204
STUDY_SERIES: Final = 0x00201206
STUDY_INSTANCES: Final = 0x00201208
SERIES_INSTANCES: Final = 0x00201209
MODALITIES_IN_STUDY: Final = 0x00080061
SOP_CLASSES_IN_STUDY: Final = 0x00080062
INSTANCE_AVAILABILITY: Final = 0x00080056
MODALITY: Final = 0x00080060

COMPUTED: Final = {
    PATIENT_STUDIES: Level.PATIENT,
    PATIENT_SERIES: Level.PATIENT,
    PATIENT_INSTANCES: Level.PATIENT,
    STUDY_SERIES: Level.STUDY,
    STUDY_INSTANCES: Level.STUDY,
    MODALITIES_IN_STUDY: Level.STUDY,
    SOP_CLASSES_IN_STUDY: Level.STUDY,
    SERIES_INSTANCES: Level.SERIES,
    INSTANCE_AVAILABILITY: Level.PATIENT,  # at every level
}
MATCHED: Final = frozenset({MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY})  # the others are returned, their keys ignored

Row = Mapping[str, Any]
Values = dict[AttributeName, Attribute]


def computed_attributes(client: OrthancClient, wanted: Iterable[int], entities: Sequence[Entity]) -> list[Values]:
    """The wanted ones of `COMPUTED` for each entity, in the order of `entities`; all are of the same level."""
    wanted = frozenset(wanted)
    answers: list[Values] = [{} for _ in entities]
    for level, compute in _BY_LEVEL.items():
        asked = frozenset(tag for tag in wanted if COMPUTED[tag] == level and tag != INSTANCE_AVAILABILITY)
        owners = {entity.ids[level] for entity in entities if level in entity.ids}
        if asked and owners:
            table = compute(client, sorted(owners), asked)
            for answer, entity in zip(answers, entities, strict=True):
                answer.update(table.get(entity.ids[level], {}))
    if INSTANCE_AVAILABILITY in wanted:
        for answer in answers:
            answer[INSTANCE_AVAILABILITY] = Attribute("CS", ("ONLINE",))  # S3 answers at once, whatever its class
    return answers


def _of_patients(client: OrthancClient, patients: list[str], asked: frozenset[int]) -> dict[str, Values]:
    studies = {row["ID"]: row for row in client.resources("Study", patients)}
    by_patient = _grouped(studies.values(), lambda row: row["ParentPatient"])
    series: dict[str, list[Row]] = {}
    if asked & {PATIENT_SERIES, PATIENT_INSTANCES}:
        rows = client.resources("Series", patients)
        series = _grouped(rows, lambda row: studies.get(row["ParentStudy"], {}).get("ParentPatient", ""))
    return {
        patient: _chosen(
            asked,
            {
                PATIENT_STUDIES: _count(len(by_patient.get(patient, ()))),
                PATIENT_SERIES: _count(len(series.get(patient, ()))),
                PATIENT_INSTANCES: _count(_instances(series.get(patient, ()))),
            },
        )
        for patient in patients
    }


def _of_studies(client: OrthancClient, studies: list[str], asked: frozenset[int]) -> dict[str, Values]:
    series = _grouped(client.resources("Series", studies), lambda row: row["ParentStudy"])
    tables = {study: _of_series_of_study(series.get(study, []), asked) for study in studies}
    if SOP_CLASSES_IN_STUDY in asked:
        for study in studies:  # one study at a time: this describes every single instance
            instances = client.resources("Instance", [study], metadata=True)
            classes = {row["Metadata"].get("SopClassUid", "") for row in instances}
            tables[study][SOP_CLASSES_IN_STUDY] = Attribute("UI", _sorted(classes))
    return tables


def _of_series_of_study(series: Sequence[Row], asked: frozenset[int]) -> Values:
    modalities = {row["MainDicomTags"].get("0008,0060", "") for row in series}
    return _chosen(
        asked,
        {
            STUDY_SERIES: _count(len(series)),
            STUDY_INSTANCES: _count(_instances(series)),
            MODALITIES_IN_STUDY: Attribute("CS", _sorted(modalities)),
        },
    )


def _of_series(client: OrthancClient, series: list[str], asked: frozenset[int]) -> dict[str, Values]:
    rows = client.resources("Series", series)
    return {row["ID"]: _chosen(asked, {SERIES_INSTANCES: _count(len(row["Instances"]))}) for row in rows}


def _grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _instances(series: Iterable[Row]) -> int:
    return sum(len(row["Instances"]) for row in series)


def _count(number: int) -> Attribute:
    return Attribute("IS", (str(number),))


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(filter(None, values)))


def _chosen(asked: frozenset[int], values: Values) -> Values:
    return {tag: value for tag, value in values.items() if tag in asked}


_BY_LEVEL: Final = {Level.PATIENT: _of_patients, Level.STUDY: _of_studies, Level.SERIES: _of_series}
