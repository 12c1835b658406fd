"""Real workers under attack, and what must hold after each attack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.raw_peer import RawPeer
from tests.fakes.scp_workers import WorkerProcess, Workers, eventually, workers

MEMORY_TOLERANCE = 24 * 1024 * 1024  # bytes: one receive buffer per busy association, and the allocator's own habits


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """One worker with short deadlines, used by all tests of a module: damage done by one shows in the next."""
    with workers(
        tmp_path_factory.mktemp("spool"),
        AssociateTimeout=1.0,
        PduTimeout=1.0,
        ScpTimeout=2,
        MinimumReceiveRate=65536,
        SlowMessageGrace=1.5,
        MaximumAssociations=40,
        MaximumConnections=64,
        DataSetMemory=1024 * 1024,
        MaximumDataSetLength=64 * 1024 * 1024,
    ) as running:
        with RawPeer(running.port).established() as peer:  # what is loaded on first use counts as there before
            peer.echo()
            peer.store(bytes(2 * 1024 * 1024))
            peer.release()
        yield running


@pytest.fixture(scope="module")
def quiet(group: Workers) -> tuple[int, int]:
    """Descriptors and threads of the worker when nobody is connected."""
    eventually(lambda: group[0].report.get("Associations") == 0 and group[0].report["Connections"] == 0)
    return _state(group[0])


@pytest.fixture(autouse=True)
def unharmed(group: Workers, quiet: tuple[int, int]) -> Iterator[None]:
    """After the test: a legitimate C-ECHO within a second; threads and descriptors as before."""
    yield
    start = time.monotonic()
    with RawPeer(group.port).established() as peer:
        assert peer.echo() == 0
        peer.release()
    assert time.monotonic() - start < 1
    eventually(lambda: _state(group[0]) <= quiet, 15)
    assert group[0].process.poll() is None


@pytest.fixture(autouse=True, scope="module")
def no_growth(group: Workers) -> Iterator[None]:
    """A whole module of attacks leaves the worker's memory where it was, and nothing in its folder."""
    before = group[0].resident()
    yield
    assert group[0].resident() - before < MEMORY_TOLERANCE
    assert list(Path(group.folder, "receiving").iterdir()) == []


def _state(worker: WorkerProcess) -> tuple[int, int]:
    return worker.descriptors(), worker.threads()
