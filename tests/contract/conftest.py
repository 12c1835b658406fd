"""Servers and stores of the contract suites."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from backend.stack.s3_server import S3Server
from tests.fakes.certificates import make_certificates
from tests.fakes.s3_faults import FakeS3
from tests.servers.radosgw import Radosgw, RadosgwUnavailable


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(free_port(), tmp_path_factory.mktemp("moto") / "log")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Radosgw]:
    try:
        server = Radosgw(tmp_path_factory.mktemp("radosgw") / "log")
    except RadosgwUnavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@dataclass(frozen=True)
class TlsServer:
    """A moto server that speaks TLS with a certificate of an authority nobody knows."""

    url: str
    ca_certificates: Path


@pytest.fixture(scope="session")
def moto_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("moto-tls")
    authority, certificate, key = make_certificates(folder)
    port = free_port()
    options = ["-H", "127.0.0.1", "-p", str(port), "-s", "-c", str(certificate), "-k", str(key)]
    server = Process([sys.executable, "-m", "moto.server", *options], folder / "log")
    wait_until(lambda: is_listening(port), 30, "the S3 server listens")
    yield TlsServer(f"https://127.0.0.1:{port}", authority)
    server.stop()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    server = FakeS3()
    yield server
    server.stop()


@pytest.fixture
def names_below_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve `bucket.localhost` to this machine: not every resolver does."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **options: object) -> object:
        is_ours = isinstance(host, str) and host.endswith(".localhost")
        return resolve("127.0.0.1" if is_ours else host, *args, **options)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
