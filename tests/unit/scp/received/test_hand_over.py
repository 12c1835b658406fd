"""From the journal to Orthanc: taken, tried again, or set aside."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from backend.stack.processes import wait_until
from scp.origins import Origin
from scp.orthanc_client import BAD_FILE_FORMAT, OrthancClient, OrthancError, OrthancRefused, OrthancUnreachable
from scp.orthanc_client import StoredInstance as Stored
from scp.received import hand_over
from scp.received.hand_over import HandOver
from scp.received.journal import Entry, Journal

ORIGIN = {"RemoteAET": "CT1", "CalledAET": "ISEN", "RemoteIP": "192.0.2.7"}
NOTHING = Entry("", -1, 0, {}, 0.0, None, is_new=True)


class Answers(OrthancClient):
    """Orthanc's answers in turn; the last one again and again."""

    def __init__(self, *answers: Stored | OrthancError) -> None:
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.posted: list[bytes] = []

    def post_instance(self, body: Callable[[], Iterable[bytes]], length: int) -> Stored:
        content = b"".join(body())
        assert len(content) == length
        with self._lock:
            self.posted.append(content)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OrthancError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses are short, and the threads of each test end with it, as they otherwise do with the process."""
    monkeypatch.setattr(hand_over, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(hand_over, "_ADOPTION", 0.1)
    started: list[HandOver] = []
    start = HandOver.start
    monkeypatch.setattr(HandOver, "start", lambda work: (started.append(work), start(work)))
    yield

    def end(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # whose exit this is, is known
    monkeypatch.setattr(Journal, "adopt", end)
    monkeypatch.setattr(HandOver, "_hand_over", end)
    for work in started:
        for _ in range(hand_over._THREADS):
            work.add(NOTHING)
    wait_until(lambda: not any("received-" in thread.name for thread in threading.enumerate()), 10, "all have ended")


def handed_over(folder: Path, client: OrthancClient, *contents: bytes, origins: list[Origin] | None = None) -> Journal:
    """A journal with these instances, being handed over."""
    journal = Journal(folder, 1000)
    work = HandOver(journal, client, (origins if origins is not None else []).append)
    for number, content in enumerate(contents):
        work.add(journal.accept(f"1.{number}", [content], len(content), ORIGIN, 0))
    work.start()
    return journal


def wait_until_done(journal: Journal) -> None:
    wait_until(lambda: journal.report()["Count"] == 0, 10, "nothing is owed")


@pytest.mark.parametrize("status", ["Success", "AlreadyStored", "FilteredOut"])
def test_what_orthanc_has_taken_is_forgotten(tmp_path: Path, status: str) -> None:
    client = Answers(Stored(status, "x"))
    journal = handed_over(tmp_path, client, b"one", b"two", b"three")
    wait_until_done(journal)
    assert sorted(client.posted) == [b"one", b"three", b"two"]
    assert journal.report()["RefusedCount"] == 0


def test_where_a_new_instance_came_from_is_noted(tmp_path: Path) -> None:
    origins: list[Origin] = []
    journal = handed_over(tmp_path, Answers(Stored("Success", "i", "s")), b"one", origins=origins)
    wait_until_done(journal)
    assert origins == [Origin("i", "s", "CT1", "ISEN", "192.0.2.7")]


@pytest.mark.parametrize(
    "trouble", [OrthancUnreachable("away"), OrthancRefused(500, 14, "cannot write"), Stored("Failure", "")]
)
def test_what_may_succeed_later_is_tried_until_it_does(tmp_path: Path, trouble: Stored | OrthancError) -> None:
    client = Answers(trouble, trouble, trouble, Stored("Success", "x"))
    journal = handed_over(tmp_path, client, b"one")
    wait_until_done(journal)
    assert client.posted == [b"one"] * 4
    assert journal.report()["RefusedCount"] == 0


def test_one_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    class OneFails(Answers):
        def post_instance(self, body: Callable[[], Iterable[bytes]], length: int) -> Stored:
            stored = super().post_instance(body, length)
            if self.posted[-1] == b"bad":
                raise OrthancRefused(500, 1, "an error of its own")
            return stored

    journal = handed_over(tmp_path, OneFails(Stored("Success", "x")), b"bad", *(b"%d" % n for n in range(8)))
    wait_until(lambda: journal.report()["Count"] == 1, 10, "the others are handed over")


def test_what_orthanc_never_takes_is_kept_aside_with_a_line_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        journal = handed_over(tmp_path, Answers(OrthancRefused(400, BAD_FILE_FORMAT, "Bad file format")), b"one")
        wait_until_done(journal)
        wait_until(lambda: "received_refused" in caplog.text, 10, "it is logged")
    assert [path.read_bytes() for path in (tmp_path / "refused").iterdir()] == [b"one"]
    assert journal.report()["RefusedCount"] == 1
    assert "action=keep_in_refused" in caplog.text


def test_a_damaged_file_is_never_given_to_orthanc(tmp_path: Path) -> None:
    earlier = Journal(tmp_path, 1000)
    entry = earlier.accept("1.9", [b"whole"], 5, ORIGIN, 0)
    (tmp_path / "pending" / entry.name).write_bytes(b"WHOLE")
    os.close(entry.descriptor)  # its worker was killed
    client = Answers(Stored("Success", "x"))
    journal = handed_over(tmp_path, client)
    wait_until(lambda: journal.report()["RefusedCount"] == 1, 10, "it is kept aside")
    assert client.posted == []


def test_nor_if_it_cannot_be_kept_aside_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = Journal(tmp_path, 1000)
    entry = earlier.accept("1.9", [b"whole"], 5, ORIGIN, 0)
    (tmp_path / "pending" / entry.name).write_bytes(b"WHOLE")
    os.close(entry.descriptor)  # its worker was killed
    failures = [OSError(errno.ENOSPC, "full")]
    set_aside = Journal.set_aside

    def full_at_first(journal: Journal, entry: Entry) -> None:
        if failures:
            raise failures.pop()
        set_aside(journal, entry)

    monkeypatch.setattr(Journal, "set_aside", full_at_first)
    monkeypatch.setattr(hand_over, "_LONGEST_PAUSE", 0.01)
    client = Answers(Stored("Success", "x"))
    journal = handed_over(tmp_path, client)
    wait_until(lambda: journal.report()["RefusedCount"] == 1, 10, "it is kept aside")
    assert client.posted == []


def test_what_is_damaged_while_orthanc_is_away_is_not_given_to_it_either(tmp_path: Path) -> None:
    class AwayAtFirst(Answers):
        def post_instance(self, body: Callable[[], Iterable[bytes]], length: int) -> Stored:
            for path in (tmp_path / "pending").iterdir():
                path.write_bytes(b"ONE")
            return super().post_instance(body, length)

    client = AwayAtFirst(OrthancUnreachable("away"), Stored("Success", "x"))
    journal = handed_over(tmp_path, client, b"one")
    wait_until(lambda: journal.report()["RefusedCount"] == 1, 10, "it is kept aside")
    assert len(client.posted) == 1  # and that one was refused


def test_what_a_dead_worker_owed_is_handed_over(tmp_path: Path) -> None:
    earlier = Journal(tmp_path, 1000)
    os.close(earlier.accept("1.9", [b"owed"], 4, ORIGIN, 0).descriptor)
    client = Answers(Stored("AlreadyStored", "x"))
    handed_over(tmp_path, client)
    wait_until(lambda: not any((tmp_path / "pending").iterdir()), 10, "it is handed over")
    assert client.posted == [b"owed"]
