"""Tries the ports Orthanc and Isen will listen on, and the certificates they will show."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.cli.outcome import Outcome, failed, passed, warning
from config.settings import Settings, TlsSettings

_LISTENING = "0A"  # of /proc/net/tcp
_HELD = "Orthanc"  # the process that holds both ports while it runs


def check(settings: Settings, configuration: dict[str, Any]) -> Iterator[Outcome]:
    """Ports first, then certificates."""
    if settings.dicom:
        yield _port("DICOM port", "DicomPort", settings.dicom.port)
    if configuration.get("HttpServerEnabled", True):
        yield _port("HTTP port", "HttpPort", urlsplit(settings.orthanc.url).port or 0)
    if settings.dicom:
        tls = settings.dicom.tls or settings.dicom.scu_tls
        if tls:
            yield _dicom_certificates(tls)
    if settings.orthanc.ca_certificates:
        yield _pair("HTTPS certificate", "SslCertificate", settings.orthanc.ca_certificates, None)
    if settings.storage.ca_certificates:
        yield _authorities("Object store's authority", "HttpsCACertificates", settings.storage.ca_certificates)


def _port(name: str, option: str, port: int) -> Outcome:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT does not hinder a listener
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - Orthanc listens on every interface
        except PermissionError:
            return failed(name, f"{option}: this user may not listen on {port}; choose a port from 1024 on")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return failed(name, f"{option}: {port} cannot be listened on ({error.strerror})")
        else:
            return passed(name, f"{port} is free")
    owner = listener(port)
    if owner and owner[1] == _HELD:
        return warning(
            name,
            f"{option}: {port} is held by Orthanc (process {owner[0]}); all is well if that is this one, "
            "already running, otherwise stop it (systemctl stop orthanc)",
        )
    who = f"{owner[1]} (process {owner[0]})" if owner else "a process of another user"
    return failed(name, f"{option}: {port} is taken by {who}; stop that process or choose another port")


def listener(port: int) -> tuple[int, str] | None:
    """Process id and name of who listens on a TCP port; None if that cannot be seen by this user."""
    sockets = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *rest = line.split()
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{rest[5]}]")
    holders = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if any(os.readlink(descriptor) in sockets for descriptor in (process / "fd").iterdir()):
                    holders.append((int(process.name), (process / "comm").read_text().strip()))
            except OSError:  # another user's, or just ended
                continue
    # Orthanc's workers inherit its listening socket: the parent says more than they do
    return next((holder for holder in holders if holder[1] == _HELD), min(holders, default=None))


def _dicom_certificates(tls: TlsSettings) -> Outcome:
    name = "DICOM certificates"
    found = _pair(name, "DicomTlsCertificate and DicomTlsPrivateKey", tls.certificate, tls.private_key)
    if found.verdict == "passed" and tls.trusted_certificates:
        trusted = _authorities(name, "DicomTlsTrustedCertificates", tls.trusted_certificates)
        if trusted.verdict != "passed":
            return trusted
    if tls.ciphers_accepted:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(":".join(tls.ciphers_accepted))
        except ssl.SSLError:
            return failed(name, "DicomTlsCiphersAccepted: OpenSSL knows none of these; see `openssl ciphers -v`")
    return found


def _pair(name: str, option: str, certificate: Path, key: Path | None) -> Outcome:
    """Whether certificate and key can be loaded and belong together; both may be in one file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "the key is encrypted"
        return failed(
            name, f"{option}: cannot be used ({reason}); name PEM files that belong together, without password"
        )
    return passed(name, f"{certificate} and its key belong together")


def _no_password() -> bytes:
    raise ValueError("the key is encrypted")  # otherwise OpenSSL would ask on the terminal


def _authorities(name: str, option: str, file: Path) -> Outcome:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        return failed(name, f"{option}: {file} holds no usable certificate; name a file of PEM certificates")
    return passed(name, f"{file} can be loaded")
