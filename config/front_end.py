"""The configuration of a front end: DICOM workers on a machine without Orthanc.

It is written like Orthanc's own, with the same `Dicom…` options, and `Isen.FrontEnd` in place of `Isen.Storage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.dicom import read_dicom
from config.problems import ConfigurationError, Findings
from config.section import Section, own_options, read, refuse_unknown
from config.settings import FrontEndSettings, OrthancSettings, ScpSettings, WorklistSettings
from config.storage import orthanc_file

_BELONGS_TO_ORTHANC: Final = {
    "Storage": "belongs into Orthanc's configuration; a front end never speaks to S3",
    "Hl7": "belongs into Orthanc's configuration; a front end takes no HL7 messages",
    "FrontEndUsers": "belongs into Orthanc's configuration",
}


@dataclass(frozen=True)
class LoadedFrontEnd:
    """Usable settings, and what the administrator should know all the same."""

    front_end: FrontEndSettings
    scp: ScpSettings
    warnings: tuple[str, ...]


def load_front_end(configuration: dict[str, Any], path: Path) -> LoadedFrontEnd:
    """The settings in `configuration`, which was read from `path`; relative paths in it are relative to that.

    Raises:
        ConfigurationError: with every mistake that was found.
    """
    findings = Findings()
    base = path if path.is_dir() else path.parent
    root = Section("", configuration)
    isen = root.inner("Isen", findings)
    for name, sentence in _BELONGS_TO_ORTHANC.items():
        if name in isen.options:
            findings.refuse(isen.at(name), sentence)
    refuse_unknown(isen, {"Python", "FrontEnd", "Dicom", "Worklists", *_BELONGS_TO_ORTHANC}, findings)
    section = isen.inner("FrontEnd", findings)
    refuse_unknown(section, set(own_options(FrontEndSettings)), findings)
    front_end = read(FrontEndSettings, section, root, findings)
    dicom = read_dicom(root, isen, base, findings, beside_orthanc=False)
    worklists = _worklists(root, isen, findings)
    if dicom is None:
        findings.refuse("Isen.Dicom.Enabled", "must not be false: a front end is a DICOM server and nothing else")
    for number, server in enumerate(front_end.orthancs if front_end else ()):
        if bool(server.username) != bool(server.password):
            findings.refuse(f"{section.at('Orthancs')}[{number}]", "needs both Username and Password, or neither")
    orthanc = _orthanc(root, base, front_end, findings)
    if findings.problems or not (front_end and dicom and worklists and orthanc):
        raise ConfigurationError(tuple(findings.problems), tuple(findings.warnings))
    scp = ScpSettings(directory=front_end.directory, orthanc=orthanc, dicom=dicom, worklists=worklists)
    return LoadedFrontEnd(front_end, scp, tuple(findings.warnings))


def _worklists(root: Section, isen: Section, findings: Findings) -> WorklistSettings | None:
    section = isen.inner("Worklists", findings)
    refuse_unknown(section, set(own_options(WorklistSettings)), findings)
    if "ManagedDirectory" in section.options:
        findings.refuse(
            section.at("ManagedDirectory"),
            "belongs into Orthanc's configuration: the database is on that machine; a front end reads a folder of *.wl "
            "files, Isen.Worklists.Directory",
        )
    return read(WorklistSettings, section, root, findings)


def _orthanc(
    root: Section, base: Path, front_end: FrontEndSettings | None, findings: Findings
) -> OrthancSettings | None:
    servers = [server.model_dump(mode="json", by_alias=True) for server in front_end.orthancs] if front_end else []
    overwrite = root.options.get("OverwriteInstances", False) not in (False, "Never")
    return read(
        OrthancSettings,
        Section("Orthanc"),
        root,
        findings,
        {
            "Servers": ("Isen.FrontEnd.Orthancs", servers),
            "CaCertificates": ("HttpsCACertificates", orthanc_file("HttpsCACertificates", root, base, findings)),
            "OverwriteInstances": ("OverwriteInstances", overwrite),
        },
    )
