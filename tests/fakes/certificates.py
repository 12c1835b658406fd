"""A certificate authority for one test: PEM files as Orthanc's `DicomTls*` options name them."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from config.https import verifying_context


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files; `server` and `client` are signed by `authority`."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Write a new authority and two certificates it signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Test authority")
    builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    _write(folder / "authority.crt", authority.public_bytes(serialization.Encoding.PEM))
    paths = []
    for role in ("server", "client"):
        own = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = _builder(_name(role), name, own).add_extension(address, critical=False).sign(key, hashes.SHA256())
        _write(folder / f"{role}.crt", certificate.public_bytes(serialization.Encoding.PEM))
        _write(
            folder / f"{role}.key",
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        paths += [folder / f"{role}.crt", folder / f"{role}.key"]
    return Certificates(folder / "authority.crt", *paths)


def client_context(files: Certificates, *, with_certificate: bool = True) -> ssl.SSLContext:
    """What a modality of the same authority uses."""
    context = verifying_context(files.authority)
    if with_certificate:
        context.load_cert_chain(files.client, files.client_key)
    return context


def served_in_tls(listener: socket.socket, files: Certificates) -> ssl.SSLSocket:
    """Shakes hands with whoever has connected once something is read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    return context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
