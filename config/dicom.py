"""Orthanc's `Dicom*` options and `Isen.Dicom`: what Isen's SCP does in place of Orthanc's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from config.modalities import read_modalities
from config.problems import Findings
from config.section import Section, own_options, read, refuse_unknown
from config.settings import DicomSettings, Modality
from config.tls import read_tls

_JPEG = "1.2.840.10008.1.2.4."
TRANSFER_SYNTAX_GROUPS: Final = {  # the groups of Orthanc's …TransferSyntaxAccepted options
    "Deflated": ("1.2.840.10008.1.2.1.99",),
    "Jpeg": tuple(f"{_JPEG}{number}" for number in (*range(50, 67), 70)),
    "JpegLossless": tuple(f"{_JPEG}{number}" for number in (80, 81)),  # JPEG-LS
    "Jpeg2000": tuple(f"{_JPEG}{number}" for number in (90, 91, 92, 93)),
    "Jpip": tuple(f"{_JPEG}{number}" for number in (94, 95)),
    "Mpeg2": tuple(f"{_JPEG}{number}" for number in (100, 101)),
    "Mpeg4": tuple(f"{_JPEG}{number}" for number in (102, 103, 104, 105, 106)),
    "H265": tuple(f"{_JPEG}{number}" for number in (107, 108)),
    "Rle": ("1.2.840.10008.1.2.5",),
}


def default_processes() -> int:
    """One worker per CPU this process may use, 2 to 8: one alone would let a slow query delay a store."""
    return max(2, min(8, len(os.sched_getaffinity(0))))


def read_dicom(
    root: Section, isen: Section, base: Path | None, findings: Findings, *, beside_orthanc: bool = True
) -> DicomSettings | None:
    """The settings of the SCP; None if it is switched off, or after at least one complaint.

    `beside_orthanc`: the configuration is that of an Orthanc, whose own DICOM server must be off.
    """
    section = isen.inner("Dicom", findings)
    refuse_unknown(section, {*own_options(DicomSettings), "Enabled"}, findings)
    if not section.get("Enabled", bool, default=True, findings=findings):
        return None
    if beside_orthanc:
        _refuse_competition(root, findings)
    modalities = read_modalities(root, findings)
    tls = read_tls(root, base, findings, _tls_users(root, modalities, findings), prefix="Dicom")
    derived: dict[str, tuple[str, Any]] = {
        "Modalities": ("DicomModalities", [modality.model_dump(mode="json", by_alias=True) for modality in modalities]),
        "Tls": ("DicomTlsCertificate", tls if root.options.get("DicomTlsEnabled") is True else None),
        "ScuTls": ("DicomTlsCertificate", tls),
        **_transfer_syntaxes(root, findings),
    }
    if "Processes" not in section.options:
        derived["Processes"] = (section.at("Processes"), default_processes())
    settings = read(DicomSettings, section, root, findings, derived)
    if settings:
        _check(settings, section, findings)
    return settings


def _refuse_competition(root: Section, findings: Findings) -> None:
    """Isen needs the port of Orthanc's own DICOM server, and Orthanc's REST API."""
    if root.get("DicomServerEnabled", bool, default=True, findings=findings):
        findings.refuse(
            "DicomServerEnabled",
            "must be false: Orthanc's own DICOM server (on by default) would take DicomPort from Isen's; or write "
            '"Isen": {"Dicom": {"Enabled": false}} to keep Orthanc\'s server and switch Isen\'s off',
        )
    if not root.get("HttpServerEnabled", bool, default=True, findings=findings):
        findings.refuse("HttpServerEnabled", "must be true: Isen's DICOM workers store and query over the REST API")
    ssl = root.get("SslEnabled", bool, default=False, findings=findings)
    if root.get("SslVerifyPeers", bool, default=False, findings=findings) and ssl:
        findings.refuse(
            "SslVerifyPeers",
            "must be false: Isen's DICOM workers have no client certificate for the REST API; put a proxy in front of "
            "Orthanc that asks its clients for certificates",
        )
    if not root.get("KeepAlive", bool, default=True, findings=findings):
        findings.warn("KeepAlive", "is false: each image then costs a new connection to the REST API; set it to true")


def _transfer_syntaxes(root: Section, findings: Findings) -> dict[str, tuple[str, Any]]:
    option = "AcceptedTransferSyntaxes"
    accepted = root.options.get(option, list(DicomSettings().accepted_transfer_syntaxes))
    rejected: list[str] = []
    for group, uids in TRANSFER_SYNTAX_GROUPS.items():
        switch = f"{group}TransferSyntaxAccepted"
        if switch not in root.options:
            continue
        if not root.get(switch, bool, default=True, findings=findings):
            rejected += uids
        elif isinstance(accepted, list):
            accepted = [*accepted, *(uid for uid in uids if uid not in accepted)]
    return {"AcceptedTransferSyntaxes": (option, accepted), "RejectedTransferSyntaxes": (option, rejected)}


def _tls_users(root: Section, modalities: tuple[Modality, ...], findings: Findings) -> str | None:
    """The option that makes certificates necessary, if any."""
    if root.get("DicomTlsEnabled", bool, default=False, findings=findings):
        return "DicomTlsEnabled"
    return next(
        (f"DicomModalities.{modality.name}.UseDicomTls" for modality in modalities if modality.use_dicom_tls), None
    )


def _check(settings: DicomSettings, section: Section, findings: Findings) -> None:
    """Rules between several options, or stricter than a test needs."""
    if settings.port == 0:
        findings.refuse("DicomPort", "must be at least 1")
    target = settings.forward_performed_procedure_steps
    if target and not settings.modalities_in_database and target not in {one.name for one in settings.modalities}:
        findings.refuse(
            section.at("ForwardPerformedProcedureSteps"), "must be the name of an entry of DicomModalities, or empty"
        )
    if settings.maximum_associations < settings.processes:
        findings.refuse(
            section.at("MaximumAssociations"), f"must be at least {settings.processes}, one for each of the Processes"
        )
