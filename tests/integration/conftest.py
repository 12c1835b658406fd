"""Fixtures: real servers on free ports and in fresh folders; their logs are shown when a test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from backend.stack.ports import free_port
from backend.stack.s3_server import S3Server
from tests.fakes.images import write_series
from tests.integration.harness import Node, NodeMaker

LOG_LINES = 60  # of each Orthanc, below a failed test

running: list[Node] = []


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all; every node has a bucket of its own."""
    server = S3Server(free_port(), tmp_path_factory.mktemp("s3") / "s3.log")
    yield server
    server.stop()


def _maker(folder: Path, s3: S3Server) -> Iterator[NodeMaker]:
    made: list[Node] = []

    def make(changes: dict[str, Any] | None = None, **options: Any) -> Node:
        place = folder / f"node{len(made) + 1}"
        place.mkdir(parents=True)
        made.append(Node(place, s3, changes, **options))
        running.append(made[-1])
        return made[-1]

    yield make
    for node in made:
        running.remove(node)
        node.close()


@pytest.fixture
def make_node(tmp_path: Path, s3: S3Server) -> Iterator[NodeMaker]:
    """Makes nodes for one test; they are stopped after it."""
    yield from _maker(tmp_path, s3)


@pytest.fixture(scope="module")
def make_shared_node(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[NodeMaker]:
    """Makes nodes for all tests of a module, for tests that leave each other's data alone."""
    yield from _maker(tmp_path_factory.mktemp("shared"), s3)


@pytest.fixture(scope="module")
def node(make_shared_node: NodeMaker) -> Node:
    """A running node with nothing special."""
    return make_shared_node().start()


@pytest.fixture(scope="session")
def five_hundred(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four folders with 125 images of 512 KB each: one study of four series."""
    folder, study = tmp_path_factory.mktemp("five_hundred"), generate_uid()
    folders = [folder / str(number) for number in range(4)]
    for series in folders:
        write_series(series, 125, study=study)
    return folders


@pytest.fixture(scope="session")
def ten(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images of 512 KB of one series."""
    return write_series(tmp_path_factory.mktemp("ten"), 10)


@pytest.fixture(scope="session")
def thumbnails(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images of 2 KB of one series."""
    return write_series(tmp_path_factory.mktemp("thumbnails"), 10, side=32)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Show the logs of the nodes that were running when a test failed."""
    report = yield
    if report.failed:
        for node in running:
            if node.orthanc.log.exists():
                lines = node.orthanc.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                report.sections.append((f"end of {node.orthanc.log}", "\n".join(lines)))
    return report
