"""Data sets in JSON: the tag format of Orthanc's REST API, and the DICOM JSON model (PS3.18 Annex F).

Orthanc's format names an attribute by its keyword or its tag (`PatientName`, `0010,0010`, `00100010`); a value is a
string, a number, null, or, for a sequence, a list of objects. Several values are a list, or a string with backslashes.
What is wrong is said with the attribute's name and never with its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import validate_value

from scp.matching.candidate import DEFINITE_VRS, SINGLE_VALUED_VRS, kind_of
from scp.matching.temporal import PARSERS

MAXIMUM_ATTRIBUTES: Final = 1000  # of one data set, with those of its sequences
MAXIMUM_DEPTH: Final = 6  # sequences within sequences; orders have two
FORMATS: Final = ("Simplify", "Short", "Full", "DicomJson")  # Orthanc's three, and PS3.18's
SPECIFIC_CHARACTER_SET: Final = 0x00080005

_TAG: Final = re.compile(r"([0-9A-Fa-f]{4})[,-]?([0-9A-Fa-f]{4})")
_MULTI_LINE_VRS: Final = frozenset({"LT", "ST", "UT"})
_LINE_CONTROLS: Final = frozenset("\t\n\f\r")
_FLOATS: Final = frozenset({"FL", "FD"})


class InvalidTags(ValueError):
    """The JSON is no data set; the message names the attribute."""


def data_set_of(tags: Mapping[str, Any]) -> Dataset:
    """The data set that `tags` describe, every value checked against its VR. SpecificCharacterSet is left out.

    Raises:
        InvalidTags: an attribute is unknown or private, or a value is none of its VR.
    """
    return _Reader().data_set(tags, MAXIMUM_DEPTH)


def tags_of(dataset: Dataset, form: str) -> dict[str, Any]:
    """The JSON of a data set; `form` is one of FORMATS."""
    if form == "DicomJson":
        model: dict[str, Any] = dataset.to_json_dict()
        return model
    return {_label(element, form): _labelled(element, form) for element in dataset}


class _Reader:
    """Reads one data set; counts its attributes."""

    def __init__(self) -> None:
        self._count = 0

    def data_set(self, tags: Mapping[str, Any], depth: int) -> Dataset:
        dataset = Dataset()
        for name, value in tags.items():
            self._count += 1
            if self._count > MAXIMUM_ATTRIBUTES:
                raise InvalidTags(f"more than {MAXIMUM_ATTRIBUTES} attributes")
            tag = _tag(name)
            if tag == SPECIFIC_CHARACTER_SET:
                continue  # JSON is Unicode; the entry is kept in UTF-8 and answered in what its texts need
            if tag in dataset:
                raise InvalidTags(f"{_shown(name)} is there twice")
            vr = dictionary_VR(tag)
            dataset[tag] = self._element(tag, DEFINITE_VRS.get(vr, vr), _plain(value), depth)
        return dataset

    def _element(self, tag: int, vr: str, value: Any, depth: int) -> DataElement:
        keyword = keyword_for_tag(tag)
        if vr == "SQ":
            return DataElement(tag, "SQ", self._items(keyword, value, depth))
        values = [] if value is None else value if isinstance(value, list) else [value]
        if kind_of(vr) == "text":
            texts = _texts(keyword, vr, values)
            return DataElement(tag, vr, texts[0] if len(texts) == 1 else texts or None)
        if kind_of(vr) == "number" and vr != "AT":
            numbers = _numbers(keyword, vr, values)
            return DataElement(tag, vr, numbers[0] if len(numbers) == 1 else numbers or None)
        raise InvalidTags(f"{keyword} has the value representation {vr}, which cannot be given here")

    def _items(self, keyword: str, value: Any, depth: int) -> Sequence:
        items = [] if value is None else value
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InvalidTags(f"{keyword} is a sequence: a list of objects")
        if not depth:
            raise InvalidTags("sequences are nested too deeply")
        return Sequence([self.data_set(item, depth - 1) for item in items])


def _tag(name: str) -> int:
    written = _TAG.fullmatch(name)
    tag = int(written[1] + written[2], 16) if written else tag_for_keyword(name)
    if tag is None or tag < SPECIFIC_CHARACTER_SET:
        raise InvalidTags(f"{_shown(name)} is no attribute of a data set")
    if not keyword_for_tag(tag) or not tag & 0xFFFF:
        raise InvalidTags(f"{_shown(name)} is not in the dictionary; private attributes cannot be given here")
    return tag


def _shown(name: str) -> str:
    return repr(name) if name.isascii() and name.isalnum() and len(name) <= 64 else "a name"


def _plain(value: Any) -> Any:
    """The value of an attribute in the DICOM JSON model; anything else as it is."""
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("vr"), str) or set(value) - {"vr", "Value"}:
        raise InvalidTags("an attribute's value is an object that is not of the DICOM JSON model")
    values = value.get("Value", [])
    return [_plain_name(one) if value["vr"] == "PN" else one for one in values] if isinstance(values, list) else values


def _plain_name(name: Any) -> Any:
    """PS3.18 F.2.2: the component groups of a person name."""
    if not isinstance(name, dict):
        return name
    groups = [name.get(group) or "" for group in ("Alphabetic", "Ideographic", "Phonetic")]
    return "=".join(groups).rstrip("=") if all(isinstance(group, str) for group in groups) else None


def _texts(keyword: str, vr: str, values: list[Any]) -> list[str]:
    if not all(isinstance(value, str | int | float | None) and not isinstance(value, bool) for value in values):
        raise InvalidTags(f"{keyword} must be a string")
    texts = ["" if value is None else str(value) for value in values]
    if vr not in SINGLE_VALUED_VRS:
        texts = [part.strip(" ") for text in texts for part in text.split("\\")]
    for text in texts:
        _check(keyword, vr, text)
    return texts if any(texts) else []


def _check(keyword: str, vr: str, text: str) -> None:
    allowed = _LINE_CONTROLS if vr in _MULTI_LINE_VRS else frozenset()
    if any((ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000) and c not in allowed for c in text):
        raise InvalidTags(f"{keyword} holds control characters")
    if text and vr in PARSERS and PARSERS[vr](text, None) is None:
        raise InvalidTags(f"{keyword} is no value of {vr} (PS3.5 6.2)")
    try:
        validate_value(vr, text, RAISE)
    except ValueError:
        raise InvalidTags(f"{keyword} is no value of {vr} (PS3.5 6.2)") from None


def _numbers(keyword: str, vr: str, values: list[Any]) -> list[int | float]:
    numbers: list[int | float] = []
    for value in values:
        if value in ("", None):
            continue
        try:
            if isinstance(value, bool):
                raise TypeError
            numbers.append(float(value) if vr in _FLOATS else int(value))
            validate_value(vr, numbers[-1], RAISE)
        except (TypeError, ValueError, OverflowError):
            raise InvalidTags(f"{keyword} is no value of {vr} (PS3.5 6.2)") from None
    return numbers


def _label(element: DataElement, form: str) -> str:
    number = f"{element.tag.group:04x},{element.tag.element:04x}"
    return (element.keyword or number) if form == "Simplify" else number


def _labelled(element: DataElement, form: str) -> Any:
    if element.VR == "SQ":
        value: Any = [tags_of(item, form) for item in element.value]
        kind = "Sequence"
    else:
        value = _written(element.value)
        kind = "String"
    if form != "Full":
        return value
    return {"Name": element.keyword or "Unknown Tag & Data", "Type": kind, "Value": value}


def _written(value: Any) -> str:
    """As Orthanc writes values: one string, several values joined by backslashes."""
    if value is None:
        return ""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes) and not hasattr(value, "components"):
        return "\\".join(map(str, value))
    return str(value)
