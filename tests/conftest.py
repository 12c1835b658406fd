"""Servers that several suites use."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.servers.radosgw import Radosgw, RadosgwUnavailable
from tests.servers.seaweedfs import SeaweedFS

# how fast examples are found and tried says nothing of the code, only of the machine
settings.register_profile("isen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isen")

# a shell has what it starts in the background ignore SIGINT, and so would the programs that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Radosgw]:
    """A real S3 server; tests that use it are skipped where it cannot be had."""
    try:
        server = Radosgw(tmp_path_factory.mktemp("radosgw") / "log")
    except RadosgwUnavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs") / "log")
    yield server
    server.stop()
