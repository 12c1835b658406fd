"""Decoded attributes turned back into a pydicom data set, without the conversions that fail on others' values."""

from __future__ import annotations

from typing import Any

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

from scp.matching.candidate import DEFINITE_VRS, Attribute, AttributeName, Candidate


def add_attribute(dataset: Dataset, name: AttributeName, attribute: Attribute) -> None:
    """Add one attribute to `dataset`."""
    value: Any = Sequence(map(full_dataset, attribute.values)) if attribute.vr == "SQ" else _value(attribute)
    tag = _tag(dataset, name)
    vr = DEFINITE_VRS.get(attribute.vr, attribute.vr)
    dataset[tag] = DataElement(tag, vr, value, already_converted=True)


def full_dataset(candidate: Candidate) -> Dataset:
    """Everything a candidate holds, as a new data set without SpecificCharacterSet."""
    dataset = Dataset()
    for name, attribute in candidate.attributes.items():
        add_attribute(dataset, name, attribute)
    return dataset


def _value(attribute: Attribute) -> Any:
    values: tuple[Any, ...] = attribute.values
    if attribute.vr == "PN":
        values = tuple(PersonName(value, validation_mode=IGNORE) for value in values)
    if not values:
        return empty_value_for_VR(attribute.vr)
    return values[0] if len(values) == 1 else list(values)


def _tag(dataset: Dataset, name: AttributeName) -> BaseTag:
    """The attribute's tag; a private one gets a block of its creator in this data set (PS3.5 7.8.1)."""
    if isinstance(name, int):
        return Tag(name)
    group, creator, low_byte = name
    return dataset.private_block(group, creator, create=True).get_tag(low_byte)
