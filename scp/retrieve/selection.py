"""The instances that a retrieve request names (PS3.4 C.4.2.2.1, C.4.3.2.1).

The unique key of the retrieve level must have a value, or a list of them; those of higher levels, where given, must
hold too. Values are literal: `*` and `?` select nothing, for an empty or a wild key must never select everything.
Beyond the Standard, as with Orthanc: AccessionNumber may stand for StudyInstanceUID, PatientID may be a list, and a
missing QueryRetrieveLevel is the lowest level whose unique key has a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset

from scp.matching import Attribute, Candidate
from scp.matching.candidate import Undecodable
from scp.orthanc_client import OrthancClient
from scp.query.entities import Entity, EntityReader
from scp.query.hierarchy import check_unique_keys
from scp.query.model import ORTHANC_LEVELS, QUERY_RETRIEVE_LEVEL, UNIQUE_KEYS, Level, Root
from scp.query.orthanc_query import orthanc_queries
from scp.statuses import CANNOT_COUNT_MATCHES, DATA_SET_DOES_NOT_MATCH, Refusal

ACCESSION_NUMBER: Final = 0x00080050
TEXT_KEYS: Final = {ACCESSION_NUMBER: "SH", UNIQUE_KEYS[Level.PATIENT]: "LO"}
MAXIMUM_TEXT_QUERIES: Final = 256  # one for each value of a text key, or for each pair of two
MAXIMUM_SUB_OPERATIONS: Final = 0xFFFF  # the counters of PS3.7 9.1.4 are US
BATCH: Final = 500  # resources described by one request
# The first two batches of instances end here: S3 is asked for them while Orthanc describes the others.
_FIRST: Final = 16
_SECOND: Final = 48


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance to send, as the index describes it."""

    orthanc_id: str
    sop_class_uid: str  # empty if the index does not know
    sop_instance_uid: str
    transfer_syntax: str  # as stored; empty if the index does not know
    order: tuple[str, int]  # series, then number within it
    attachment: str = ""  # UUID of its DICOM file; empty if Orthanc does not tell
    size: int = 0  # of that file, in bytes


def select_instances(
    client: OrthancClient,
    identifier: Dataset,
    root: Root,
    default_encoding: str,
    *,
    strict: bool = False,
    announce: Callable[[Sequence[Instance]], None] = lambda _instances: None,
) -> list[Instance]:
    """The instances that `identifier` names, series by series; none if there are no such entities.

    `strict`: only as PS3.4 C.4.2.2.1 has it. `announce` gets some that will be among them as soon as they are known.

    Raises:
        Refusal: 0xA900, a key is missing or empty; 0xA701, more instances than can be counted.
        OrthancError: Orthanc could not say.
    """
    keys = _unique_keys(identifier, default_encoding)
    level = root.level_of(identifier) if strict else _level(identifier, root, keys)
    if strict:
        attributes = {tag: Attribute("LO", values) for tag, values in keys.items() if tag != ACCESSION_NUMBER}
        check_unique_keys(attributes, root, level)
        keys = {tag: attribute.values for tag, attribute in attributes.items()}
    wanted = _wanted(keys, level)
    entities = [entity.row["ID"] for entity in _entities(client, level, wanted)]
    ids = [
        instance
        for batch in _batched(entities)
        for row in client.resources("Instance" if level == Level.IMAGE else "Series", batch)
        for instance in ([row["ID"]] if level == Level.IMAGE else row["Instances"])
    ]
    if len(ids) > MAXIMUM_SUB_OPERATIONS:
        raise Refusal(CANNOT_COUNT_MATCHES, "more than 65535 instances")
    instances: list[Instance] = []
    for batch in (ids[:_FIRST], ids[_FIRST:_SECOND], *_batched(ids[_SECOND:])):
        rows = client.resources("Instance", batch, metadata=True) if batch else []
        instances += map(_instance, rows)
        announce(instances[:_SECOND])
    return sorted(instances, key=lambda instance: instance.order)


def _unique_keys(identifier: Dataset, default_encoding: str) -> Mapping[int, tuple[str, ...]]:
    """Values of the keys that may select, in the order of their tags."""
    try:
        attributes = Candidate.of(identifier, default_encoding).attributes
    except Undecodable as error:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, str(error)) from error
    tags = (ACCESSION_NUMBER, *UNIQUE_KEYS.values())
    return {tag: tuple(dict.fromkeys(filter(None, attributes[tag].values))) for tag in tags if tag in attributes}


def _level(identifier: Dataset, root: Root, keys: Mapping[int, Sequence[str]]) -> Level:
    if identifier.get(QUERY_RETRIEVE_LEVEL):
        return root.level_of(identifier)
    given = [level for level in Level if keys.get(UNIQUE_KEYS[level])]
    if not given:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, "no QueryRetrieveLevel and no unique key")
    return given[-1]


def _wanted(keys: Mapping[int, Sequence[str]], level: Level) -> dict[int, Sequence[str]]:
    """Tag -> acceptable values, of the retrieve level and of those above it that were given."""
    wanted = {UNIQUE_KEYS[above]: keys.get(UNIQUE_KEYS[above], ()) for above in Level if above <= level}
    if level == Level.STUDY and not wanted[UNIQUE_KEYS[level]] and keys.get(ACCESSION_NUMBER):
        del wanted[UNIQUE_KEYS[level]]
        wanted[ACCESSION_NUMBER] = keys[ACCESSION_NUMBER]
    elif not wanted[UNIQUE_KEYS[level]]:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, f"no unique key of the level {level.name}")
    if math.prod(len(wanted.get(tag, ())) or 1 for tag in TEXT_KEYS) > MAXIMUM_TEXT_QUERIES:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, "too many values of PatientID or AccessionNumber")
    return {tag: values for tag, values in wanted.items() if values}


def _entities(client: OrthancClient, level: Level, wanted: Mapping[int, Sequence[str]]) -> Iterator[Entity]:
    reader = EntityReader(client, level)
    found: dict[str, None] = {}
    for query in _queries(wanted):
        found.update(dict.fromkeys(client.find(ORTHANC_LEVELS[level], query)))
    acceptable = {tag: frozenset(values) for tag, values in wanted.items()}  # a list of UID may have thousands
    for batch in _batched(list(found)):
        for entity in reader.read(batch):
            if all(_holds(entity.attributes.get(tag), values) for tag, values in acceptable.items()):
                yield entity


def _queries(wanted: Mapping[int, Sequence[str]]) -> Iterable[dict[str, str]]:
    """Queries whose answers hold all that is wanted; text keys are asked one value at a time."""
    keys = {
        tag: Attribute("UI", tuple(values)) for tag, values in wanted.items() if tag > 0x00200000 or tag == 0x00080018
    }
    queries = [keys]
    for tag in (ACCESSION_NUMBER, UNIQUE_KEYS[Level.PATIENT]):
        if tag in wanted:
            vr = "SH" if tag == ACCESSION_NUMBER else "LO"
            queries = [{**query, tag: Attribute(vr, (value,))} for query in queries for value in wanted[tag]]
    return [orthanc_query for query in queries for orthanc_query in orthanc_queries(query)]


def _holds(stored: Attribute | None, wanted: frozenset[str]) -> bool:
    return stored is not None and any(value in wanted for value in stored.values)


def _instance(row: Mapping[str, Any]) -> Instance:
    metadata = row.get("Metadata", {})
    number = str(metadata.get("IndexInSeries", ""))
    return Instance(
        row["ID"],
        metadata.get("SopClassUid", ""),
        row["MainDicomTags"].get("0008,0018", ""),
        metadata.get("TransferSyntax", ""),
        (row["ParentSeries"], int(number) if number.isdecimal() else 0),
        str(row.get("FileUuid", "")),
        int(row.get("FileSize", 0)),
    )


def _batched(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
