"""Reads one group of settings out of Orthanc's configuration, driven by the fields of its model.

The model says everything: the name of an option is the field's alias in its own section, or the option of Orthanc that
`From` names; types, limits and sentences come with the field's type. So a new setting needs no line here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from config.options import Derived, From, Unit, Unusable
from config.problems import Findings, suggestion

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from config.settings import Frozen

Model = TypeVar("Model", bound="Frozen")

_NEEDED = {
    "BucketName": "name the bucket that holds the attachments",
    "Region": 'name the region of the bucket; servers other than AWS take "us-east-1"',
    "SpoolDirectory": "name a folder on a disk that survives a restart",
    "CacheDirectory": "name a folder on the same disk as SpoolDirectory",
    "AET": "write the application entity title",
    "Host": "write the host name or IP address",
    "Port": "write the TCP port",
}


@dataclass(frozen=True)
class Section:
    """An object of the configuration and where it stands; the top level has an empty path."""

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    def at(self, name: str) -> str:
        """The path of one option."""
        return f"{self.path}.{name}" if self.path else name

    def inner(self, name: str, findings: Findings) -> Section:
        """The section `name`; empty if it is absent or, after a complaint, no object."""
        options = self.options.get(name, {})
        if not isinstance(options, dict):
            findings.refuse(self.at(name), "must be an object: { … }")
            options = {}
        return Section(self.at(name), options)

    def get(self, name: str, kind: type[Any], default: Any, findings: Findings) -> Any:
        """One option that must be of `kind` (bool, str, list); complains and answers `default` if it is not."""
        value = self.options.get(name, default)
        if value is default or isinstance(value, kind):
            return value
        findings.refuse(self.at(name), _KINDS[kind])
        return default


_KINDS: dict[type[Any], str] = {
    bool: "must be true or false, without quotes",
    str: "must be a string",
    list: "must be a list: [ … ]",
}


def option_name(alias: str, information: FieldInfo) -> str:
    """The name of a setting in its own section: `MaximumSpoolSize` is written as `MaximumSpoolSizeMB`."""
    return alias + "".join(mark.suffix for mark in information.metadata if isinstance(mark, Unit))


def own_options(model: type[Frozen]) -> dict[str, str]:
    """Names of the options of the model's own section, each with its alias."""
    return {
        option_name(alias, information): alias
        for alias, information in _fields(model)
        if not any(isinstance(mark, From | Derived) for mark in information.metadata)
    }


def read(
    model: type[Model],
    section: Section,
    root: Section,
    findings: Findings,
    derived: dict[str, tuple[str, Any]] | None = None,
) -> Model | None:
    """The settings of `model`, or None after at least one complaint.

    Args:
        model: the settings to make.
        section: where options without a source are written.
        root: the whole configuration, where `From` looks.
        findings: takes the complaints.
        derived: alias → (path to blame, JSON value) of settings that were worked out or replaced.
    """
    document: dict[str, Any] = {}
    paths: dict[str, str] = {}
    for alias, information in _fields(model):
        place, name = _source(alias, information, section, root)
        paths[alias] = place.at(name)
        if name in place.options and not any(isinstance(mark, Derived) for mark in information.metadata):
            document[alias] = _scaled(place.options[name], information)
    for alias, (path, value) in (derived or {}).items():
        paths[alias], document[alias] = path, value
    try:
        return model.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        for mistake in error.errors(include_url=False, include_input=False):
            _complain(mistake, model, paths, findings)
        return None


def refuse_unknown(section: Section, known: set[str], findings: Findings) -> None:
    """Complain about every option of one of Isen's sections that does not exist."""
    for name in section.options:
        if name not in known:
            findings.refuse(section.at(name), f"is not an option of Isen.{suggestion(name, known)}")


def _fields(model: type[Frozen]) -> list[tuple[str, FieldInfo]]:
    return [(information.alias or name, information) for name, information in model.model_fields.items()]


def _source(alias: str, information: FieldInfo, section: Section, root: Section) -> tuple[Section, str]:
    for mark in information.metadata:
        if isinstance(mark, From):
            return root, mark.option
    return section, option_name(alias, information)


def _unit(information: FieldInfo) -> int:
    return next((mark.size for mark in information.metadata if isinstance(mark, Unit)), 1)


def _scaled(value: Any, information: FieldInfo) -> Any:
    """Megabytes to bytes; what is no whole number is left for the type's own complaint."""
    return value * _unit(information) if type(value) is int else value


def _complain(mistake: ErrorDetails, model: type[Frozen], paths: dict[str, str], findings: Findings) -> None:
    alias, *inner = mistake["loc"]
    path = paths.get(str(alias), str(alias)) + "".join(f"[{json.dumps(step)}]" for step in inner)
    information = next((information for name, information in _fields(model) if name == alias), None)
    findings.refuse(path, _sentence(mistake, path.rpartition(".")[2], _unit(information) if information else 1))


def _sentence(mistake: ErrorDetails, option: str, unit: int) -> str:
    """What to do about a mistake; never with the value, and so never with the library's own words."""
    limits = {**mistake.get("ctx", {}), "needed": _NEEDED.get(option, "it has no default")}
    if isinstance(limits.get("error"), Unusable):
        return str(limits["error"])
    for name in ("ge", "le", "gt"):
        if name in limits:
            limits[name] = -int(-limits[name] // unit)
    sentence = _SENTENCES.get(mistake["type"], "cannot be used; see the commented example config/orthanc.json")
    return sentence.format_map(limits)


_SENTENCES = {
    "missing": "is missing; {needed}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be greater than {gt}",
    "enum": "must be {expected}",
    "string_type": "must be a string",
    "int_type": "must be a whole number, without quotes",
    "int_from_float": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "finite_number": "must be a number, without quotes",
    "bool_type": "must be true or false, without quotes",
    "path_type": "must be a path, as a string",
    "tuple_type": "must be a list: [ … ]",
    "dict_type": "must be an object: {{ … }}",
}
