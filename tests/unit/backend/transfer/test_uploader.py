from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.stack.processes import wait_until
from backend.transfer.availability import PUT
from backend.transfer.object_store.errors import RequestRefused, Unreachable
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.uploader import Uploader
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import Parts

NAME = name_of(1)
CONTENT = content_of(1)
DEADLINE = 20.0  # seconds


@pytest.fixture
def queue(parts: Parts) -> PendingQueue:
    return PendingQueue(parts.spool.directory / "pending", lambda _: None)


@pytest.fixture
def uploader(parts: Parts, queue: PendingQueue) -> Iterator[Uploader]:
    uploader = Uploader(queue, parts.upload, parts.availability, 2)
    yield uploader
    uploader.stop()
    uploader.join(10)


def pend(parts: Parts, queue: PendingQueue, *names: str) -> None:
    for name in names:
        parts.spool.accept(name, CONTENT)
    queue.refresh(set(names), set())


def test_everything_pending_is_uploaded_whatever_fails_on_the_way(
    parts: Parts, queue: PendingQueue, uploader: Uploader, caplog: pytest.LogCaptureFixture
) -> None:
    errors = (RequestRefused("400"), ZeroDivisionError("a mistake of ours"))
    parts.store.before_put = [raising(error) for error in errors]
    names = [name_of(number) for number in range(6)]
    pend(parts, queue, *names)
    uploader.start()
    wait_until(lambda: parts.store.keys() == sorted(names), DEADLINE, "all are uploaded")
    wait_until(lambda: queue.report()["PendingCount"] == 0, DEADLINE, "none is pending")
    assert caplog.text.count("upload_failed") == 2


def test_a_store_that_is_away_is_no_fault_of_the_attachment(
    parts: Parts, queue: PendingQueue, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = Uploader(
        queue, parts.upload, parts.availability, 1
    )  # another might wait for a name already, and succeed
    parts.store.before_put = [raising(Unreachable("away"))]
    pend(parts, queue, NAME)
    uploader.start()
    wait_until(lambda: parts.availability.error(PUT) is not None, DEADLINE, "uploads are paused")
    wait_until(lambda: queue._waiting == [(0.0, queue._pending[NAME].accepted, NAME)], DEADLINE, "it waits")
    assert "upload_failed" not in caplog.text
    parts.availability.succeeded(PUT)
    wait_until(lambda: parts.store.keys() == [NAME], DEADLINE, "it is uploaded")
    uploader.stop()
    uploader.join(10)


def test_while_uploads_are_paused_it_looks_whether_to_stop(
    parts: Parts, uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.transfer.uploader._LOOK_UP", 0.01)
    parts.availability.failed(PUT, Unreachable("away"))
    uploader.start()
    uploader.stop()
    uploader.join(10)
    assert not any(thread.is_alive() for thread in uploader._threads)


def test_what_was_removed_is_left_to_the_remover(parts: Parts, queue: PendingQueue, uploader: Uploader) -> None:
    pend(parts, queue, NAME)
    parts.spool.bury(NAME)
    uploader.start()
    wait_until(lambda: queue.report()["PendingCount"] == 0, DEADLINE, "it is out of the queue")
    assert parts.file("pending", NAME).exists()
    assert parts.store.keys() == []
