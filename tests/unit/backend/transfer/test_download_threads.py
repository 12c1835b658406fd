"""Many downloads in one thread; what does not only wait for an answer in threads of their own."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import cast

import pytest

from backend.stack.processes import wait_until
from backend.transfer.download_slots import busy_cores
from backend.transfer.download_threads import Download, DownloadThreads
from config.http.asked import Asked

TOTAL = 4


class Answer:
    """A socket that is asked, and what a thread that waits for it would see."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        return self.ours.fileno()

    def come(self) -> None:
        self.theirs.send(b"!")

    @property
    def asked(self) -> Asked:
        return cast("Asked", self)


class Work:
    """Downloads that are to be begun, and in which threads each of their steps was done."""

    def __init__(self) -> None:
        self.queue: deque[Download] = deque()
        self.threads = DownloadThreads(lambda: self.queue.popleft() if self.queue else None, TOTAL)
        self.steps: list[tuple[int, str, bool | None]] = []  # number, thread, what was sent

    def submit(self, number: int, *waits: Answer | None) -> None:
        self.queue.append(self._download(number, waits))
        self.threads.wake()

    def _download(self, number: int, waits: tuple[Answer | None, ...]) -> Download:
        self._step(number, None)
        for answer in waits:
            self._step(number, (yield answer.asked if answer else None))

    def _step(self, number: int, sent: bool | None) -> None:
        self.steps.append((number, threading.current_thread().name, sent))

    def reach(self, count: int) -> None:
        wait_until(lambda: len(self.steps) == count, 5, f"{count} steps are done")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    monkeypatch.setattr("backend.transfer.download_threads.busy_cores", lambda: 1)
    work = Work()
    work.threads.start()
    return work


def test_who_waits_for_an_answer_shares_a_thread_with_others(work: Work) -> None:
    answers = [Answer() for _ in range(TOTAL)]
    for number, answer in enumerate(answers):
        work.submit(number, answer)
    work.reach(TOTAL)
    for answer in reversed(answers):
        answer.come()
    work.reach(2 * TOTAL)
    assert {thread for _, thread, _ in work.steps} == {"downloads-1"}
    assert {sent for _, _, sent in work.steps} == {None}


def test_one_connection_may_answer_several_in_turn(work: Work) -> None:
    answer = Answer()
    for number in range(50):
        work.submit(number, answer)
        work.reach(2 * number + 1)
        answer.come()
        work.reach(2 * number + 2)
        answer.ours.recv(1)


def test_what_waits_for_something_else_does_it_apart_and_comes_back(work: Work) -> None:
    answer = Answer()
    work.submit(1, None, None, answer)
    work.reach(3)
    answer.come()
    work.reach(4)
    (_, first, _), (_, second, sent), (_, third, _), (_, last, _) = work.steps
    assert first == last == "downloads-1"
    assert second == third != first
    assert sent is False


def test_an_answer_that_does_not_come_in_time_is_waited_for_apart(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.transfer.download_threads._PATIENCE", 0.05)
    work.submit(1, Answer())
    work.reach(2)
    _, (_, thread, sent) = work.steps
    assert thread != "downloads-1"
    assert sent is True


def test_one_that_comes_byte_by_byte_does_not_come_in_time(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.transfer.download_threads._PATIENCE", 0.3)
    answer, is_apart = Answer(), threading.Event()

    def download() -> Download:
        while not (yield answer.asked):
            answer.ours.recv(1)
        is_apart.set()

    work.queue.append(download())
    work.threads.wake()
    deadline = time.monotonic() + 10
    while not is_apart.wait(0.05) and time.monotonic() < deadline:
        answer.come()
    assert is_apart.is_set()


def test_no_more_are_under_way_than_there_may_be(work: Work) -> None:
    """Whether they wait together or apart; the place of each that ends is taken."""
    ends = threading.Event()

    def apart() -> Download:
        work._step(0, None)
        yield None
        ends.wait(10)

    work.queue.append(apart())
    work.threads.wake()
    answers = [Answer() for _ in range(TOTAL)]
    for number, answer in enumerate(answers, 1):
        work.submit(number, answer)
    work.reach(TOTAL)
    assert len(work.queue) == 1
    ends.set()
    work.reach(TOTAL + 1)
    for answer in answers:
        answer.come()
    work.reach(2 * TOTAL + 1)
    work.submit(9)
    work.reach(2 * TOTAL + 2)


def test_several_threads_share_them_where_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.transfer.download_threads.busy_cores", lambda: 3)
    work = Work()
    work.threads.start()
    answers = [Answer() for _ in range(TOTAL)]
    for number, answer in enumerate(answers):
        work.submit(number, None, answer)
    work.reach(2 * TOTAL)
    for answer in answers:
        answer.come()
    work.reach(3 * TOTAL)
    assert {thread for _, thread, _ in work.steps[2 * TOTAL :]} <= {"downloads-1", "downloads-2", "downloads-3"}


def test_one_at_a_time_is_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one could wait for what another holds that waits for its thread."""
    monkeypatch.setattr("backend.transfer.download_threads.busy_cores", lambda: 3)
    now, most, ended = 0, 0, 0

    def download() -> Download:
        nonlocal now, most, ended
        now += 1
        most = max(most, now)
        yield None
        time.sleep(0.0005)
        now -= 1
        ended += 1

    queue = deque(download() for _ in range(200))
    threads = DownloadThreads(lambda: queue.popleft() if queue else None, 1)
    threads.start()
    wait_until(lambda: ended == 200, 20, "all have ended")
    assert most == 1


def test_if_it_cannot_go_on_the_process_ends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The plugin starts it again; whoever waits for a download would wait for ever."""
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)

    def begin() -> Download:
        raise MemoryError

    DownloadThreads(begin, 1).start()
    wait_until(lambda: len(codes) == busy_cores(), 5, "every thread has ended")
    assert set(codes) == {1}
    assert "downloads_ended reason=MemoryError()" in caplog.text
