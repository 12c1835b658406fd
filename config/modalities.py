"""`DicomModalities`: the peers Orthanc knows, each a list `[AET, Host, Port, Manufacturer?]` or an object.

Rules and defaults are Orthanc's own, which reads the same option for its outgoing connections.
"""

from __future__ import annotations

import re
from typing import Any, Final

from config.problems import Findings, suggestion
from config.section import Section, read
from config.settings import Modality

_SPELLING: Final = {  # Orthanc's name: alias, where they differ
    "AET": "AeTitle",
    "LocalAet": "LocalAeTitle",
}
_IGNORED: Final = {"RetrieveMethod"}  # how Orthanc's own queries retrieve; the SCP does not
_ORDER: Final = ("AET", "Host", "Port", "Manufacturer")


def read_modalities(root: Section, findings: Findings) -> tuple[Modality, ...]:
    """The usable entries of `DicomModalities`, after complaints about the others."""
    section = root.inner("DicomModalities", findings)
    modalities = (_modality(name, entry, section.at(name), root, findings) for name, entry in section.options.items())
    return tuple(modality for modality in modalities if modality)


def _modality(name: str, entry: Any, path: str, root: Section, findings: Findings) -> Modality | None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        findings.refuse(path, "the symbolic name may hold letters, digits, `-` and `_` only")
    if isinstance(entry, list):
        if len(entry) not in (3, 4):
            findings.refuse(path, "must be [AET, Host, Port] or [AET, Host, Port, Manufacturer]")
            return None
        options = dict(zip(_ORDER, entry, strict=False))
        places = {option: f"{path}[{index}]" for index, option in enumerate(_ORDER)}
    elif isinstance(entry, dict):
        options = dict(entry)
        places = {option: f"{path}.{option}" for option in options}
    else:
        findings.refuse(path, 'must be [AET, Host, Port] or {"AET": …, "Host": …, "Port": …}')
        return None
    return read(Modality, Section(path), root, findings, _values(name, options, places, path, findings))


def _values(
    name: str, options: dict[str, Any], places: dict[str, str], path: str, findings: Findings
) -> dict[str, tuple[str, Any]]:
    """Alias → (path, value), with Orthanc's spelling and short cuts resolved."""
    aliases = {information.alias or field for field, information in Modality.model_fields.items()} - {"Name"}
    known = aliases - set(_SPELLING.values()) | set(_SPELLING) | {"AllowStorageCommitment"}
    values: dict[str, tuple[str, Any]] = {"Name": (path, name)}
    for required in ("AET", "Host", "Port"):
        if required not in options:
            findings.refuse(f"{path}.{required}", "is missing")
            values[_SPELLING.get(required, required)] = (path, 1 if required == "Port" else "PLACEHOLDER")
    for option, value in options.items():
        place = places[option]
        if option == "AllowStorageCommitment":
            values["AllowNAction"] = values["AllowEventReport"] = (place, value)
        elif option in known:
            values[_SPELLING.get(option, option)] = (place, _number(value) if option == "Port" else value)
        elif option not in _IGNORED:
            findings.warn(place, f"is ignored: Orthanc has no such option.{suggestion(option, known)}")
    if values.get("LocalAeTitle", ("", None))[1] == "":  # Orthanc: empty means DicomAet
        del values["LocalAeTitle"]
    return values


def _number(value: Any) -> Any:
    """Orthanc takes the port as text too."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value) else value
