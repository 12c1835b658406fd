"""TLS of the port: strangers do not get in, silent clients hold nobody up, new certificates need no restart."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import TlsSettings
from scp.store_association import AssociationRefused, open_association
from tests.fakes.certificates import Certificates, client_context, make_certificates
from tests.fakes.raw_peer import CT, EXPLICIT, RawPeer
from tests.fakes.scp_workers import Workers, eventually, workers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls_settings(files: Certificates) -> dict[str, str]:
    return {
        "Certificate": str(files.server),
        "PrivateKey": str(files.server_key),
        "TrustedCertificates": str(files.authority),
    }


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, files: Certificates) -> Iterator[Workers]:
    with workers(
        tmp_path_factory.mktemp("spool"), Tls=tls_settings(files), TlsHandshakeTimeout=1.0, AssociateTimeout=1.0
    ) as running:
        with RawPeer(running.port, tls=client_context(files)).established() as peer:
            peer.store(bytes(1 << 20))
            peer.release()
        yield running


@pytest.fixture(scope="module", autouse=True)
def no_growth() -> None:
    """The module's own worker starts small; the plain modules watch memory."""


@pytest.fixture(autouse=True)
def unharmed() -> None:
    """Plain peers cannot check this worker; each test ends with a TLS peer of its own."""


def honest(group: Workers, files: Certificates) -> None:
    start = time.monotonic()
    with RawPeer(group.port, tls=client_context(files)).established() as peer:
        assert peer.echo() == 0
        peer.release()
    assert time.monotonic() - start < 1


def test_large_data_sets_both_ways(group: Workers, files: Certificates) -> None:
    with RawPeer(group.port, tls=client_context(files)).established() as peer:
        data = os.urandom(20 << 20)
        assert peer.store(data)["ErrorComment"].startswith(f"{len(data)} ")
        peer.release()


def test_silent_clients(group: Workers, files: Certificates) -> None:
    peers = [RawPeer(group.port) for _ in range(100)]
    peers[0].send(b"\x16\x03\x01\x02\x00")
    honest(group, files)
    assert all(peer.is_closed_within(4) for peer in peers)


def test_plain_dicom_is_refused(group: Workers, files: Certificates) -> None:
    with RawPeer(group.port) as peer:
        assert peer.associate()[0] not in (2, 3)
        assert peer.is_closed_within(3)
    honest(group, files)


def test_client_without_certificate(group: Workers, files: Certificates) -> None:
    """DicomTlsRemoteCertificateRequired, on by default."""
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        RawPeer(group.port, tls=client_context(files, with_certificate=False)).established()
    honest(group, files)


def test_client_of_another_authority(group: Workers, files: Certificates, tmp_path: Path) -> None:
    stranger = client_context(make_certificates(tmp_path))
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        RawPeer(group.port, tls=stranger).established()
    honest(group, files)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the old version is the point
def test_tls_1_1_is_refused(group: Workers, files: Certificates) -> None:
    old = client_context(files)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        RawPeer(group.port, tls=old)
    honest(group, files)


def test_outgoing_association(group: Workers, files: Certificates, tmp_path: Path) -> None:
    """UseDicomTls: we show our certificate, and refuse a server of another authority."""
    settings = TlsSettings(certificate=files.client, private_key=files.client_key, trusted_certificates=files.authority)
    with open_association("127.0.0.1", group.port, "ISEN", "PEER", [(CT, [EXPLICIT])], tls=settings) as association:
        assert association.accepts(CT, EXPLICIT)
    other = make_certificates(tmp_path)
    wrong = settings.model_copy(update={"trusted_certificates": other.authority})
    with pytest.raises(AssociationRefused, match="TLS failed"):
        open_association("127.0.0.1", group.port, "ISEN", "PEER", [(CT, [EXPLICIT])], tls=wrong)


def test_certificates_are_reloaded(tmp_path: Path) -> None:
    """New connections see the new certificate within seconds; the association from before lives on."""
    old = make_certificates(tmp_path)
    with workers(tmp_path / "spool", Tls=tls_settings(old)) as running:  # noqa: SIM117 -- the second needs the first
        with RawPeer(running.port, tls=client_context(old)).established() as before:
            new = make_certificates(tmp_path)  # the same paths
            fresh = client_context(new)

            def is_reloaded() -> bool:
                try:
                    honest(running, new)
                except (ssl.SSLError, ConnectionError):
                    return False
                return True

            eventually(is_reloaded, 12)
            assert fresh.verify_mode == ssl.CERT_REQUIRED
            assert before.echo() == 0
            before.release()
