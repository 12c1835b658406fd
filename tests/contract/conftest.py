"""Servers and stores of the contract suites."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.stack.ports import free_port
from backend.stack.s3_server import S3Server
from tests.bench.distant_s3 import DistantS3
from tests.fakes.s3_faults import FakeS3


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(free_port(), tmp_path_factory.mktemp("moto") / "log")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def bench_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DistantS3]:
    server = DistantS3(tmp_path_factory.mktemp("bench-s3") / "log")
    yield server
    server.stop()


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
