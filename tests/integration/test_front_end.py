"""Front ends: `python -m scp` against Orthancs that have no DICOM server of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from config.child_process import CANNOT_START
from tests.integration.front_end import PASSWORD, STORAGE_ONLY, FrontEnd, log_in
from tests.integration.harness import Node, NodeMaker

Maker = Callable[..., FrontEnd]


@pytest.fixture
def make_front_end(tmp_path: Path) -> Iterator[Maker]:
    started: list[FrontEnd] = []

    def make(*urls: str, **changes: Any) -> FrontEnd:
        started.append(FrontEnd(tmp_path / f"front-end-{len(started)}", *urls, **changes))
        return started[-1]

    yield make
    for front_end in started:
        front_end.stop()


@pytest.fixture
def node(make_node: NodeMaker) -> Node:
    node = make_node(STORAGE_ONLY)
    log_in(node)
    return node.start()


def url(node: Node) -> str:
    return node.orthanc.url


@pytest.mark.timeout(120)
def test_stores_finds_and_hands_back(node: Node, make_front_end: Maker, ten: list[Path], tmp_path: Path) -> None:
    front_end = make_front_end(url(node)).wait_until_ready()
    assert front_end.peer.store(*ten).exit_code == 0
    assert len(node.instances()) == 10
    node.wait_until_uploaded()
    sent = {image.SOPInstanceUID: image for image in map(dcmread, ten)}
    study = next(iter(sent.values())).StudyInstanceUID
    found = front_end.peer.find("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}", "PatientName")
    assert [answer.PatientName for answer in found.data_sets] == [next(iter(sent.values())).PatientName]
    (tmp_path / "got").mkdir()
    front_end.peer.get(tmp_path / "got", "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}")
    got = {image.SOPInstanceUID: image.PixelData for image in map(dcmread, (tmp_path / "got").iterdir())}
    assert got == {uid: image.PixelData for uid, image in sent.items()}
    assert PASSWORD not in front_end.log.read_text()
    assert PASSWORD not in Path(f"/proc/{front_end.process.pid}/cmdline").read_text()

    if node.orthanc.get_json("/system")["Version"] >= "1.12.2":  # earlier ones let nobody correct an origin
        instance = node.instances()[0]
        wait_until(
            lambda: node.orthanc.get(f"/instances/{instance}/metadata/Origin") == b"DicomProtocol",
            30,
            "the front end has told where the images came from",
        )


@pytest.mark.timeout(120)
def test_is_ready_only_while_an_orthanc_answers(node: Node, make_front_end: Maker, ten: list[Path]) -> None:
    front_end = make_front_end(url(node)).wait_until_ready()
    assert node.stop() == 0
    wait_until(lambda: not front_end.is_ready(), 20, "the front end says that it is not ready")
    assert front_end.health("/health/live")[0] == HTTPStatus.OK
    assert front_end.peer.echo().exit_code == 0
    assert front_end.peer.store(ten[0]).exit_code != 0  # 0xA700, not a lost connection
    node.start()
    front_end.wait_until_ready()
    assert front_end.peer.store(*ten).exit_code == 0
    assert len(node.instances()) == 10


@pytest.mark.timeout(120)
def test_an_orthanc_that_is_away_is_not_missed(node: Node, make_front_end: Maker, ten: list[Path]) -> None:
    """Nobody listens at the first address; the workers, each beginning at another one, all find the second."""
    front_end = make_front_end(f"http://127.0.0.1:{free_port()}", url(node)).wait_until_ready()
    for path in ten:
        assert front_end.peer.store(path).exit_code == 0
    assert len(node.instances()) == 10


@pytest.mark.timeout(120)
def test_workers_that_die_come_back_and_end_with_their_parent(node: Node, make_front_end: Maker) -> None:
    front_end = make_front_end(url(node)).wait_until_ready()
    first, second = front_end.workers()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: first not in (front_end.workers() or [first]), 20, "the worker was replaced")
    front_end.wait_until_ready()
    assert front_end.peer.echo().exit_code == 0
    running = front_end.workers()
    assert second in running
    front_end.process.kill()
    front_end.process.wait()
    wait_until(lambda: not any(map(is_running, running)), 10, "the workers have ended")


@pytest.mark.timeout(120)
def test_what_is_under_way_is_finished_before_the_end(node: Node, make_front_end: Maker, ten: list[Path]) -> None:
    front_end = make_front_end(url(node)).wait_until_ready()
    assert front_end.peer.store(*ten).exit_code == 0
    assert front_end.stop() == 0
    assert len(node.instances()) == 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"Orthancs": []}, "Isen.FrontEnd.Orthancs"),
        ({"Directory": "/proc/nothing"}, "Isen.FrontEnd.Directory: cannot make the folder"),
        ({"HealthBindAddress": "192.0.2.1"}, "Isen.FrontEnd.HealthPort: cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(
    make_front_end: Maker, changes: dict[str, Any], sentence: str
) -> None:
    front_end = make_front_end("http://127.0.0.1:1", **changes)
    assert front_end.process.wait(30) == CANNOT_START
    assert sentence in front_end.log.read_text()


def is_running(pid: int) -> bool:
    """Not even as a zombie, which waits for a parent that may never ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
