"""Verification of servers: by authorities, whatever else a version of Python wants of certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from config.https import verifying_context
from tests.fakes.certificates import Certificates, make_certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Their authority's key is named by no extension of the certificates, which Python 3.13 wants by default."""
    return make_certificates(tmp_path)


def shake_hands(files: Certificates, client: ssl.SSLContext, host: str = "127.0.0.1") -> None:
    """Raises: ssl.SSLCertVerificationError: the client does not trust the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        context.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        end = ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            ends.append(end)


@pytest.fixture
def strict_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13, whose default is the strictest."""
    made = ssl.create_default_context

    def create(*, cafile: Path | str | None = None) -> ssl.SSLContext:
        context = made(cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create)


@pytest.mark.usefixtures("strict_python")
def test_an_authority_that_names_no_keys_is_trusted_by_every_python(certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Missing Authority Key Identifier"):
        shake_hands(certificates, ssl.create_default_context(cafile=str(certificates.authority)))
    shake_hands(certificates, verifying_context(certificates.authority))


def test_nobody_else_is_trusted(certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificates, verifying_context(None))
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        shake_hands(certificates, verifying_context(certificates.authority), "127.0.0.2")
