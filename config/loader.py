"""Orthanc's configuration → `Settings`, or every mistake in it at once.

What belongs to Isen is read strictly: unknown options, wrong types and impossible values are refused. Options at the
top level are Orthanc's or another plugin's: the ones Isen's SCP honours are checked, all others are ignored.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.dicom import read_dicom
from config.problems import ConfigurationError, Findings
from config.section import Section, own_options, read, refuse_unknown
from config.settings import (
    DicomSettings,
    EncryptionSettings,
    Hl7Settings,
    OrthancSettings,
    Settings,
    StorageSettings,
    WorklistSettings,
)
from config.storage import orthanc_file, read_storage
from config.tls import TLS_OPTIONS, read_tls

_FOREIGN_STORAGE = {  # sections of other storage plugins: whether they are on when they do not say
    "AdvancedStorage": False,
    "AzureBlobStorage": True,
    "DelayedDeletion": False,
    "GoogleCloudStorage": True,
}
_FOREIGN_WORKLISTS = (  # options of Orthanc's newer worklist plugin without effect on a folder of files
    "DeleteWorklistsDelay",
    "LogMatchedWorklistIds",
    "SetStudyInstanceUidIfMissing",
)


@dataclass(frozen=True)
class Capabilities:
    """What the plugin knows about the Orthanc it runs in.

    `allow_threads`: the Python plugin knows the option AllowThreads (4.3 and later).
    `configuration_path`: the file or folder Orthanc was started with; relative paths of Orthanc's options are relative
    to it. Without it they are refused.
    """

    allow_threads: bool = False
    configuration_path: Path | None = None

    @property
    def base(self) -> Path | None:
        path = self.configuration_path
        return path if path is None or path.is_dir() else path.parent


@dataclass(frozen=True)
class Loaded:
    """Usable settings, and what the administrator should know all the same."""

    settings: Settings
    warnings: tuple[str, ...]


def load(configuration: Any, capabilities: Capabilities = Capabilities()) -> Loaded:
    """The settings in `configuration`, which is Orthanc's whole JSON, merged and with its variables substituted.

    Reads the file system (certificates, the interpreter), opens no connection and changes nothing.

    Raises:
        ConfigurationError: with every mistake that was found.
    """
    findings = Findings()
    if not isinstance(configuration, dict):
        findings.refuse("configuration", "must be a JSON object")
        raise ConfigurationError(tuple(findings.problems))
    root = Section("", configuration)
    isen = root.inner("Isen", findings)
    refuse_unknown(isen, settable_options()["Isen"], findings)
    python = _python(root, isen, findings)
    _check_plugin(root, capabilities, findings)
    orthanc = _orthanc(root, capabilities.base, findings)
    worklists = _worklists(root, isen, findings)
    hl7 = _hl7(root, isen, capabilities.base, worklists, findings)
    dicom = read_dicom(root, isen, capabilities.base, findings)
    storage = read_storage(root, isen, capabilities.base, findings)
    front_end_users = _front_end_users(root, isen, findings)
    if findings.problems or not (storage and orthanc and worklists and python):
        raise ConfigurationError(tuple(findings.problems), tuple(findings.warnings))
    settings = Settings(
        python=python,
        orthanc=orthanc,
        storage=storage,
        dicom=dicom,
        worklists=worklists,
        hl7=hl7,
        front_end_users=front_end_users,
    )
    return Loaded(settings, tuple(findings.warnings))


def _python(root: Section, isen: Section, findings: Findings) -> Path | None:
    """`Isen.Python`, or the virtual environment beside the script, or the interpreter that runs this."""
    named = isen.get("Python", str, None, findings)
    if named is not None:
        if Path(named).is_absolute():
            return Path(named)
        findings.refuse("Isen.Python", "must be the absolute path of a virtual environment's `bin/python`")
        return None
    section = root.options.get("Python")
    scripts = [root.options.get("PythonScript"), section.get("Path") if isinstance(section, dict) else None]
    for script in scripts:
        beside = Path(script).parent / ".venv" / "bin" / "python" if isinstance(script, str) else None
        if beside and beside.is_absolute() and beside.exists():
            return beside
    return Path(sys.executable)


def _check_plugin(root: Section, capabilities: Capabilities, findings: Findings) -> None:
    """What Orthanc and its Python plugin must do for a storage area in Python."""
    section = root.options.get("Python")
    allowed = isinstance(section, dict) and section.get("AllowThreads") is True
    if capabilities.allow_threads and not allowed:
        findings.refuse(
            "Python.AllowThreads",
            'must be true, or reading an attachment can block Orthanc for ever: write "Python": {"Path": …, '
            '"AllowThreads": true} in place of PythonScript',
        )
    for name, on in _FOREIGN_STORAGE.items():
        other = root.options.get(name)
        if isinstance(other, dict) and other.get("Enable", on) is True:
            findings.warn(
                name, "its plugin wants the storage area too; only one can have it, so do not load that plugin"
            )
    if root.options.get("StoreDicom") is False:
        findings.warn("StoreDicom", "is false, but concerns Orthanc's own storage only: Isen stores everything")
    if root.options.get("HttpsVerifyPeers") is False:
        findings.warn("HttpsVerifyPeers", "is false, but Isen verifies the object store's certificate all the same")


def _front_end_users(root: Section, isen: Section, findings: Findings) -> tuple[str, ...]:
    """`Isen.FrontEndUsers`. Only Orthanc's log-in tells a front end from anybody else, so it must be on."""
    names = isen.get("FrontEndUsers", list, [], findings)
    registered = root.options.get("RegisteredUsers")
    for name in names:
        if not isinstance(name, str) or not isinstance(registered, dict) or name not in registered:
            findings.refuse("Isen.FrontEndUsers", "must be names that are in RegisteredUsers")
    if names and root.options.get("AuthenticationEnabled") is not True:
        findings.refuse("AuthenticationEnabled", "must be true, so that Isen.FrontEndUsers can be told from others")
    return tuple(map(str, names))


def _orthanc(root: Section, base: Path | None, findings: Findings) -> OrthancSettings | None:
    derived: dict[str, tuple[str, Any]] = {}
    port = root.options.get("HttpPort", 8042)
    if type(port) is not int or not 1 <= port <= 65535:
        findings.refuse("HttpPort", "must be a whole number from 1 to 65535")
    secure = root.get("SslEnabled", bool, default=False, findings=findings)
    if secure:
        certificate = orthanc_file("SslCertificate", root, base, findings)
        if not certificate and not root.options.get("SslCertificate"):
            findings.refuse("SslCertificate", "is missing, but SslEnabled is true; name the PEM file")
        derived["CaCertificates"] = ("SslCertificate", certificate)
    derived["Url"] = ("HttpPort", f"{'https' if secure else 'http'}://{_local_address(root)}:{port}")
    overwrite = root.options.get("OverwriteInstances", False)
    if not isinstance(overwrite, bool) and overwrite not in ("Never", "Always", "IfChanged"):
        findings.refuse("OverwriteInstances", 'must be true, false, "Never", "Always" or "IfChanged"')
        overwrite = False
    derived["OverwriteInstances"] = ("OverwriteInstances", overwrite not in (False, "Never"))
    return read(OrthancSettings, Section("Orthanc"), root, findings, derived)


def _local_address(root: Section) -> str:
    """Where Orthanc listens on this machine: 127.0.0.1, unless HttpBindAddresses leaves that out."""
    addresses = root.options.get("HttpBindAddresses")
    local = {"127.0.0.1", "localhost", "0.0.0.0"}  # noqa: S104 - recognised, not bound
    if not isinstance(addresses, list) or not addresses or local.intersection(map(str, addresses)):
        return "127.0.0.1"
    first = str(addresses[0])
    return f"[{first}]" if ":" in first else first


def _worklists(root: Section, isen: Section, findings: Findings) -> WorklistSettings | None:
    """`Isen.Worklists`, or the section of Orthanc's worklist plugins when it is enabled."""
    if "Worklists" in isen.options:
        section, enabled = isen.inner("Worklists", findings), True
        refuse_unknown(section, {*own_options(WorklistSettings), "Database", "Enable"}, findings)
    elif isinstance(root.options.get("Worklists"), dict):
        section, enabled = root.inner("Worklists", findings), False
        for name in _FOREIGN_WORKLISTS:
            if name in section.options and section.options.get("Enable") is True:
                findings.warn(section.at(name), "is ignored: it does not concern a folder of *.wl files")
    else:
        return WorklistSettings()
    if not section.get("Enable", bool, default=enabled, findings=findings):
        return WorklistSettings()
    if section.options.get("SaveInOrthancDatabase") is True:
        findings.refuse(
            section.at("SaveInOrthancDatabase"),
            "is not supported; keep the list in a folder of Isen's own: Isen.Worklists.ManagedDirectory",
        )
    return _worklist_folder(section, root, findings, is_orthancs="Worklists" not in isen.options)


def _worklist_folder(
    section: Section, root: Section, findings: Findings, *, is_orthancs: bool
) -> WorklistSettings | None:
    derived: dict[str, tuple[str, Any]] = {}
    name = "DeleteWorklistsOnStableStudy"
    if is_orthancs and name not in section.options:
        # the default of the plugin that knows Directory; the older one knows Database only, and deletes nothing
        derived[name] = (section.at(name), "Directory" in section.options)
    if "Database" in section.options:
        if "Directory" in section.options:
            findings.refuse(section.at("Database"), "is another name of Directory; write only one of them")
        derived["Directory"] = (section.at("Database"), section.options["Database"])
    if not {"Database", "Directory", "ManagedDirectory"} & set(section.options):
        findings.refuse(
            section.at("Directory"), "is missing; name the folder of the *.wl files, or a ManagedDirectory, or both"
        )
    for option, value in section.options.items():
        if option in ("Database", "Directory") and value == "":
            findings.refuse(section.at(option), "is empty; name the folder of the *.wl files")
    return read(WorklistSettings, section, root, findings, derived)


def _hl7(
    root: Section, isen: Section, base: Path | None, worklists: WorklistSettings | None, findings: Findings
) -> Hl7Settings | None:
    """`Isen.Hl7`, if it is there and enabled."""
    if "Hl7" not in isen.options:
        return None
    section = isen.inner("Hl7", findings)
    refuse_unknown(section, {*own_options(Hl7Settings), *TLS_OPTIONS, "Enabled"}, findings)
    if not section.get("Enabled", bool, default=True, findings=findings):
        return None
    if worklists and worklists.managed_directory is None:
        findings.refuse(
            "Isen.Worklists.ManagedDirectory", "is missing; orders that come as HL7 messages are kept there"
        )
    derived: dict[str, tuple[str, Any]] = {}
    if section.get("TlsEnabled", bool, default=False, findings=findings):
        tls = read_tls(section, base, findings, section.at("TlsEnabled"))
        derived["Tls"] = (section.at("TlsCertificate"), tls)
    return read(Hl7Settings, section, root, findings, derived)


def settable_options() -> dict[str, set[str]]:
    """Every option of Isen's own sections, for the test of the commented example and for `isen check`."""
    return {
        "Isen": {"Python", "Storage", "Dicom", "Worklists", "Hl7", "FrontEndUsers"},
        "Isen.Storage": {*own_options(StorageSettings), "Encryption"},
        "Isen.Storage.Encryption": {*own_options(EncryptionSettings), "Enabled"},
        "Isen.Dicom": {*own_options(DicomSettings), "Enabled"},
        "Isen.Worklists": {*own_options(WorklistSettings), "Enable"},
        "Isen.Hl7": {*own_options(Hl7Settings), *TLS_OPTIONS, "Enabled"},
    }
