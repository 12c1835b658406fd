"""Options of TLS, Orthanc's `DicomTls*` and those of `Isen.Hl7` that mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from config.problems import Findings
from config.section import Section
from config.settings import TlsSettings
from config.storage import orthanc_file

TLS_OPTIONS: Final = (
    *("TlsEnabled", "TlsCertificate", "TlsPrivateKey", "TlsTrustedCertificates", "TlsRemoteCertificateRequired"),
    *("TlsMinimumProtocolVersion", "TlsCiphersAccepted"),
)
_TLS_1_2: Final = 4  # Orthanc's numbering of DicomTlsMinimumProtocolVersion
_TLS_1_3: Final = 5


def read_tls(
    section: Section, base: Path | None, findings: Findings, user: str | None, prefix: str = ""
) -> dict[str, Any] | None:
    """`TlsSettings` as JSON values; None without certificates.

    Args:
        section: where the options are written, each with `prefix` before it.
        base: what relative paths are relative to.
        findings: takes the complaints.
        user: the option that makes certificates necessary, if any.
        prefix: `Dicom`, or nothing.
    """
    names = [prefix + name for name in TLS_OPTIONS]
    _, *options, required_name, version_name, ciphers_name = names
    certificate, key, trusted = (orthanc_file(option, section, base, findings) for option in options)
    required = section.get(required_name, bool, default=True, findings=findings)
    if user is None and not (certificate and key):
        return None
    for option, value in zip(options, (certificate, key, trusted), strict=True):
        if not value and not section.options.get(option) and (option != options[2] or (user and required)):
            findings.refuse(section.at(option), f"is missing, but {user or options[0]} needs it; name the PEM file")
    version = section.options.get(version_name, 0)
    ciphers = section.options.get(ciphers_name, [])
    if type(version) is not int or version not in (0, _TLS_1_2, _TLS_1_3):
        findings.refuse(
            section.at(version_name),
            "must be 0 (BCP 195), 4 (TLS 1.2) or 5 (TLS 1.3); older protocols are broken and not offered",
        )
    elif version and not ciphers:
        findings.refuse(section.at(ciphers_name), "is missing; Orthanc asks for it with any minimum other than 0")
    if not isinstance(ciphers, list) or not all(isinstance(cipher, str) for cipher in ciphers):
        findings.refuse(section.at(ciphers_name), "must be a list of OpenSSL cipher names")
        ciphers = []
    if findings.problems or not (certificate and key):
        return None
    return TlsSettings(
        certificate=Path(certificate),
        private_key=Path(key),
        trusted_certificates=Path(trusted) if trusted else None,
        remote_certificate_required=required,
        minimum_protocol_version=version,
        ciphers_accepted=tuple(ciphers),
    ).model_dump(mode="json", by_alias=True)
