"""Patients, studies, series and instances as Orthanc's index describes them, each with what it belongs to."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from scp.matching import Attribute, Candidate
from scp.matching.candidate import (
    DEFINITE_VRS,
    NO_PRIVATE_VRS,
    SINGLE_VALUED_VRS,
    AttributeName,
    PrivateName,
    PrivateVrs,
    kind_of,
    private_vr,
)
from scp.orthanc_client import OrthancClient
from scp.query.main_dicom_tags import METADATA, tag_of
from scp.query.model import ORTHANC_LEVELS, Level

_PARENTS: Final = {Level.STUDY: "ParentPatient", Level.SERIES: "ParentStudy", Level.IMAGE: "ParentSeries"}


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of the information model, with the attributes of all levels above it."""

    ids: Mapping[Level, str]  # its own Orthanc identifier and those of what it belongs to
    attributes: Mapping[AttributeName, Attribute]
    row: Mapping[str, Any]  # Orthanc's own description


class EntityReader:
    """Reads entities of one level in batches; what they belong to is kept from one batch to the next."""

    def __init__(self, client: OrthancClient, level: Level, *, metadata: bool = False) -> None:
        self._client = client
        self._level = level
        self._metadata = metadata
        self._parents: dict[Level, dict[str, Entity]] = {}

    def read(self, ids: Sequence[str]) -> list[Entity]:
        """The entities with these Orthanc identifiers, in no particular order; one request per level at most."""
        return self._read(self._level, ids, metadata=self._metadata)

    def _read(self, level: Level, ids: Sequence[str], *, metadata: bool = False) -> list[Entity]:
        rows = self._client.resources(ORTHANC_LEVELS[level], ids, metadata=metadata)
        if level > Level.STUDY:
            link = _PARENTS[level]
            parents = self._known(Level(level - 1), {row[link] for row in rows})
            return [_entity(level, row, parents[row[link]]) for row in rows if row[link] in parents]
        return [_entity(level, row, None) for row in rows]

    def _known(self, level: Level, ids: set[str]) -> dict[str, Entity]:
        before = self._parents.get(level, {})
        known = {id_: before[id_] for id_ in ids if id_ in before}
        missing = [id_ for id_ in ids if id_ not in known]
        if missing:
            known.update((entity.ids[level], entity) for entity in self._read(level, missing))
        self._parents[level] = known
        return known


def _entity(level: Level, row: Mapping[str, Any], parent: Entity | None) -> Entity:
    ids = dict(parent.ids) if parent else {}
    attributes = dict(parent.attributes) if parent else {}
    if level == Level.STUDY:
        ids[Level.PATIENT] = row["ParentPatient"]
        attributes.update(attributes_of(row.get("PatientMainDicomTags", {})))
    ids[level] = row["ID"]
    attributes.update(attributes_of(row["MainDicomTags"]))
    metadata = row.get("Metadata", {})
    attributes.update((tag, Attribute("UI", (metadata[name],))) for tag, name in METADATA.items() if name in metadata)
    return Entity(ids, attributes, row)


def attributes_of(tags: Mapping[str, Any], private_vrs: PrivateVrs = NO_PRIVATE_VRS) -> dict[AttributeName, Attribute]:
    """Attributes of Orthanc's JSON, short form: `gggg,eeee` to text, to a list of items, or to null (binary)."""
    attributes: dict[AttributeName, Attribute] = {}
    for name, value in tags.items():
        tag = tag_of(name)
        if not tag & 0x10000:
            attributes[tag] = _attribute(_dictionary_vr(tag), value, private_vrs)
        elif private := _private_name(tag, tags):
            attributes[private] = _attribute(private_vrs.get(private) or private_vr(*private), value, private_vrs)
    return attributes


def literal_name(name: PrivateName, tags: Mapping[str, Any]) -> str | None:
    """The `gggg,eeee` that a private attribute has in `tags`; None: it is not there."""
    group = f"{name[0]:04x},"
    here = (text for text in tags if text.startswith(group))
    return next((text for text in here if _private_name(tag_of(text), tags) == name), None)


def decoded_value(
    name: PrivateName, vr: str, value: bytes, tags: Mapping[str, Any], default_encoding: str
) -> Attribute:
    """A private attribute from the bytes of its value; `tags` are those of its data set."""
    group, creator, low_byte = name
    dataset = Dataset()
    if tags.get("0008,0005"):
        dataset.SpecificCharacterSet = tags["0008,0005"].split("\\")
    tag = dataset.private_block(group, creator, create=True).get_tag(low_byte)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=True, is_little_endian=True)
    return Candidate.of(dataset, default_encoding).attributes[name]


def _private_name(tag: int, tags: Mapping[str, Any]) -> PrivateName | None:
    creator = tags.get(f"{tag >> 16:04x},{tag >> 8 & 0xFF:04x}")
    return (tag >> 16, creator, tag & 0xFF) if isinstance(creator, str) and tag & 0xFFFF > 0xFF else None


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return DEFINITE_VRS.get(vr, vr)


def _attribute(vr: str, value: Any, private_vrs: PrivateVrs) -> Attribute:
    if isinstance(value, list):
        return Attribute("SQ", tuple(Candidate(attributes_of(item, private_vrs)) for item in value))
    if vr == "SQ" or not isinstance(value, str) or not value:
        return Attribute(vr, ())
    return _text_attribute(vr, value)


@lru_cache(maxsize=4096)
def _text_attribute(vr: str, value: str) -> Attribute:
    kind = kind_of(vr)
    if not value.isascii():
        value = unicodedata.normalize("NFC", value)
    parts = [value] if vr in SINGLE_VALUED_VRS else value.split("\\")
    texts = tuple(part.strip("\0 ") for part in parts)
    if not any(texts):
        return Attribute(vr, ())
    if kind == "number":
        return Attribute(vr, tuple(_numbers(texts)))
    return Attribute(vr, texts if kind == "text" else tuple(text.encode() for text in texts))


def _numbers(texts: Iterable[str]) -> Iterable[int | float]:
    for text in texts:
        try:
            yield int(text)
        except ValueError:
            try:
                yield float(text)
            except ValueError:
                continue
