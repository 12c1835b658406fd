"""Destinations of C-MOVE that are slow, refuse, abort or are away: each is survived, and told apart from the others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt

from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from tests.fakes.images import write_series
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

IMAGES = 5
STUDY = "1.2.826.0.1.3680043.8.498.7"
MOVE = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}")
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"


@dataclass
class Destination:
    """A store SCP by pynetdicom that does what a test wants; `priorities` are those of what it received."""

    answer: Callable[[Any], int] = lambda _event: 0x0000
    port: int = field(default_factory=free_port)
    priorities: list[int] = field(default_factory=list)
    rejects: bool = False

    def __enter__(self) -> Self:
        entity = AE("PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        if self.rejects:
            entity.require_called_aet = True
            entity.ae_title = "OTHER"
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        self.priorities.append(event.request.Priority)
        return self.answer(event)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalOrthanc]:
    folder = tmp_path_factory.mktemp("destinations")
    server = LocalOrthanc(folder / "orthanc", {"ConcurrentJobs": 1})
    for path in write_series(folder, IMAGES, study=STUDY, side=16):
        server.store(path.read_bytes())
    yield server
    server.stop()


@pytest.fixture(scope="module")
def worker(orthanc: LocalOrthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScpWorker]:
    made = ScpWorker(tmp_path_factory.mktemp("worker"), orthanc.http_port, dicom_settings())
    yield made
    made.stop()


def known(orthanc: LocalOrthanc, port: int) -> None:
    orthanc.request("/modalities/pacs", json.dumps(["PACS", "127.0.0.1", port]).encode(), "PUT")


def abort(event: Any) -> int:
    event.assoc.abort()
    return 0x0000


def once(answer: Callable[[Any], int]) -> Callable[[Any], int]:
    """`answer` to the first instance, success to the others."""
    asked: list[Any] = []

    def first(event: Any) -> int:
        asked.append(event)
        return answer(event) if len(asked) == 1 else 0x0000

    return first


class Outcome(NamedTuple):
    """What the requester is told."""

    status: int
    counters: tuple[int, int, int]  # completed, failed, warning
    comment: str = ""


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        (Destination(), Outcome(0x0000, (IMAGES, 0, 0))),
        (Destination(lambda _event: 0xA700), Outcome(0xA702, (0, IMAGES, 0), "status 0xA700")),
        (Destination(once(lambda _event: 0xC000)), Outcome(0xB000, (IMAGES - 1, 1, 0), "status 0xC000")),
        (Destination(lambda _event: 0xB006), Outcome(0xB000, (0, 0, IMAGES))),
        (Destination(abort), Outcome(0xA702, (0, IMAGES, 0), "association lost: aborted_by_peer")),
        (Destination(once(abort)), Outcome(0x0000, (IMAGES, 0, 0))),
        (Destination(rejects=True), Outcome(0xA702, (0, IMAGES, 0), "rejected")),
    ],
    ids=["willing", "full", "refuses one", "coerces", "aborts", "aborts once", "rejects"],
)
def test_ps34_table_c_4_2_the_status_and_the_reason(
    orthanc: LocalOrthanc, worker: ScpWorker, destination: Destination, expected: Outcome
) -> None:
    with destination:
        known(orthanc, destination.port)
        answer = worker.peer.move("PACS", *MOVE)
    assert (answer.statuses[-1], answer.counters) == (expected.status, expected.counters)
    assert expected.comment in answer.output
    assert expected.comment in worker.output(), "the operator reads it too"


def test_a_destination_that_is_away_is_told_apart(orthanc: LocalOrthanc, worker: ScpWorker) -> None:
    known(orthanc, free_port())
    answer = worker.peer.move("PACS", *MOVE)
    assert (answer.statuses, answer.counters) == ([0xA702], (0, IMAGES, 0))
    assert "cannot connect: Connection refused" in answer.output


def test_a_slow_destination_gets_everything_and_the_requester_its_counters(
    orthanc: LocalOrthanc, worker: ScpWorker
) -> None:
    pause = threading.Event()

    def slow(_event: Any) -> int:
        pause.wait(0.4)
        return 0x0000

    with Destination(slow) as destination:
        known(orthanc, destination.port)
        answer = worker.peer.move("PACS", *MOVE)
    assert answer.statuses == [0xFF00] * (IMAGES - 1) + [0x0000]


@pytest.mark.parametrize("priority", [0, 1, 2])
def test_ps34_c_4_2_3_1_sub_operations_have_the_priority_of_the_move(
    orthanc: LocalOrthanc, worker: ScpWorker, priority: int
) -> None:
    with Destination() as destination:
        known(orthanc, destination.port)
        entity = AE("MODALITY")
        entity.add_requested_context(STUDY_MOVE)
        association = entity.associate("127.0.0.1", worker.port)
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", STUDY
        *_, (status, _) = association.send_c_move(identifier, "PACS", STUDY_MOVE, priority=priority)
        association.release()
    assert status.Status == 0x0000
    assert destination.priorities == [priority] * IMAGES


def test_an_asynchronous_move_is_one_job_that_can_be_cancelled(orthanc: LocalOrthanc, tmp_path: Path) -> None:
    """`SynchronousCMove: false`: answered at once, seen and ended under /jobs."""
    background = ScpWorker(tmp_path / "background", orthanc.http_port, dicom_settings(synchronous_c_move=False))
    released = threading.Event()

    def held(_event: Any) -> int:
        released.wait(20)
        return 0x0000

    before = set(orthanc.request("/jobs"))
    try:
        with Destination(held) as destination:
            known(orthanc, destination.port)
            answer = background.peer.move("PACS", *MOVE)
            assert answer.statuses == [0x0000]
            (job,) = set(orthanc.request("/jobs")) - before
            wait_until(lambda: destination.priorities, 20, "the job has begun to send")
            orthanc.request(f"/jobs/{job}/cancel", b"")
            released.set()
            wait_until(lambda: orthanc.request(f"/jobs/{job}")["State"] == "Failure", 20, "the job has ended")
            assert len(destination.priorities) < IMAGES
            assert orthanc.request(f"/jobs/{job}")["ErrorDescription"] == "This job was canceled"
    finally:
        released.set()
        background.stop()
