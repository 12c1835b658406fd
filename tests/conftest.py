"""Servers that several suites use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.radosgw import Radosgw, RadosgwUnavailable


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Radosgw]:
    """A real S3 server; tests that use it are skipped where it cannot be had."""
    try:
        server = Radosgw(tmp_path_factory.mktemp("radosgw") / "log")
    except RadosgwUnavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()
