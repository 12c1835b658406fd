"""Files handed over as they come: from where, in which order, and what is left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from operator import attrgetter

import pytest

from backend.stack.processes import wait_until
from backend.storage_directory import StorageDirectory
from backend.transfer.deliveries import Deliveries, File
from backend.transfer.download_slots import Priority
from backend.transfer.object_store.errors import ObjectMissing
from backend.transfer.prefetcher import Prefetcher
from tests.fakes.transfer_child import content_of, name_of
from tests.unit.backend.transfer.conftest import Parts

SIZE = 50_000


class Receiver:
    """Who announced them: reads each file when it is handed over."""

    def __init__(self) -> None:
        self.messages: list[tuple[dict[str, bytes], list[str]]] = []
        self.verified_at: dict[str, float] = {}
        self.is_there = True

    def __call__(self, files: Sequence[File], missing: Sequence[str]) -> bool:
        contents = {file.name: os.pread(file.descriptor, 1 << 20, 0) for file in files}
        self.verified_at.update((file.name, file.verified_at) for file in files)
        self.messages.append((contents, list(missing)))
        return self.is_there

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self.messages) == count, 10, f"{count} messages have come")


@pytest.fixture
def prefetcher(parts: Parts) -> Prefetcher:
    return Prefetcher(
        parts.fetcher, parts.cache, availability=parts.availability, counters=parts.counters, threads=4
    )  # fmt: skip


@pytest.fixture
def deliveries(parts: Parts, prefetcher: Prefetcher) -> Deliveries:
    prefetcher.start()
    return Deliveries(parts.fetcher, prefetcher)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@contextmanager
def nothing_left_open(parts: Parts) -> Iterator[None]:
    def opened() -> list[str]:
        links = [os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in os.listdir("/proc/self/fd")]
        return sorted(link for link in links if link.startswith(str(parts.folder)))

    before = opened()
    yield
    wait_until(lambda: opened() == before, 10, "no other file is open")


def put(parts: Parts, number: int) -> str:
    content = content_of(number, SIZE)
    parts.store.put_foreign(name_of(number), content, sha256(content).digest())
    return name_of(number)


def announced(*numbers: int) -> list[tuple[str, int]]:
    return [(name_of(number), SIZE) for number in numbers]


def contents(*numbers: int) -> dict[str, bytes]:
    return {name_of(number): content_of(number, SIZE) for number in numbers}


def test_what_is_here_comes_at_once_and_together(parts: Parts, deliveries: Deliveries, receiver: Receiver) -> None:
    parts.spool.accept(name_of(1), content_of(1, SIZE))
    put(parts, 2)
    os.close(parts.fetcher.fetch(name_of(2)))
    with nothing_left_open(parts):
        deliveries.begin(announced(1, 2), receiver)
        assert receiver.messages == [(contents(1, 2), [])]
    assert receiver.verified_at[name_of(1)] == 0


def test_what_is_in_s3_comes_when_it_has_come(parts: Parts, deliveries: Deliveries, receiver: Receiver) -> None:
    go = threading.Event()
    parts.store.before_get = [lambda: None, lambda: go.wait(10)]  # type: ignore[list-item,return-value] # of no interest
    parts.spool.accept(name_of(1), content_of(1, SIZE))
    for number in (2, 3):
        put(parts, number)
    before = time.monotonic()
    with nothing_left_open(parts):
        deliveries.begin(announced(2), receiver)
        receiver.wait(1)
        deliveries.begin(announced(3, 1), receiver)
        receiver.wait(2)
        go.set()
        receiver.wait(3)
    assert receiver.messages == [(contents(number), []) for number in (2, 1, 3)]
    assert before <= receiver.verified_at[name_of(2)] <= time.monotonic()
    assert parts.store.calls == [("get", name_of(2)), ("get", name_of(3))]


def test_what_is_handed_over_counts_as_read(
    parts: Parts, deliveries: Deliveries, prefetcher: Prefetcher, receiver: Receiver
) -> None:
    for number in (1, 2):
        put(parts, number)
    deliveries.begin(announced(1), receiver)
    receiver.wait(1)
    wait_until(lambda: not prefetcher.unread_bytes(Priority.SEND), 10, "nothing is unread")
    receiver.is_there = False
    with nothing_left_open(parts):
        deliveries.begin(announced(2), receiver)
        receiver.wait(2)
    assert prefetcher.unread_bytes(Priority.SEND) == SIZE


def test_there_is_a_word_on_what_cannot_be_had(parts: Parts, deliveries: Deliveries, receiver: Receiver) -> None:
    """Not in S3; damaged there; removed in Orthanc."""
    parts.store.put_foreign(name_of(2), content_of(2, SIZE), bytes(32))
    parts.spool.accept(name_of(3), content_of(3, SIZE))
    parts.file("tombstones", name_of(3)).touch()
    with nothing_left_open(parts):
        deliveries.begin(announced(1, 2, 3), receiver)
        receiver.wait(3)
    assert all(not files for files, _ in receiver.messages)
    assert sorted(name for _, names in receiver.messages for name in names) == sorted(map(name_of, (1, 2, 3)))


def test_there_is_a_word_on_what_cannot_be_queued(
    parts: Parts, deliveries: Deliveries, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.transfer.prefetcher._LONGEST_QUEUE", 0)
    parts.spool.accept(name_of(1), content_of(1, SIZE))
    deliveries.begin(announced(3, 1, 2), receiver)
    assert receiver.messages == [(contents(1), [name_of(3), name_of(2)])]


def test_what_is_asked_for_by_itself_is_fetched(parts: Parts, deliveries: Deliveries, prefetcher: Prefetcher) -> None:
    put(parts, 1)
    before = time.monotonic()
    for is_fresh in (True, False):
        file = deliveries.one(name_of(1))
        assert os.pread(file.descriptor, 1 << 20, 0) == content_of(1, SIZE)
        os.close(file.descriptor)
        assert (file.name, file.verified_at >= before) == (name_of(1), is_fresh)
    with pytest.raises(ObjectMissing):
        deliveries.one(name_of(2))
    assert prefetcher.unread_bytes(Priority.SEND) == 0


def test_what_orthancs_own_folder_holds_is_handed_over(
    parts: Parts, deliveries: Deliveries, receiver: Receiver
) -> None:
    """HybridMode."""
    folder = StorageDirectory(parts.folder / "storage")
    folder.directory.mkdir()
    folder.recover()
    folder.write(name_of(1), content_of(1, SIZE), bytes(32))
    parts.fetcher._storage_directory = folder
    deliveries.begin(announced(1), receiver)
    assert receiver.messages == [(contents(1), [])]
    assert parts.store.calls == []


def test_a_disk_that_gives_no_advice_is_no_obstacle(
    parts: Parts, deliveries: Deliveries, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError

    monkeypatch.setattr(os, "posix_fadvise", fail)
    parts.spool.accept(name_of(1), content_of(1, SIZE))
    deliveries.begin(announced(1), receiver)
    assert receiver.messages == [(contents(1), [])]


@pytest.mark.parametrize("what_fails", ["fetcher.opened", "fetcher.just_verified.take"])
def test_there_is_a_word_on_what_a_failing_disk_holds(
    parts: Parts, deliveries: Deliveries, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, what_fails: str
) -> None:
    """And no exception in the threads that go on with downloads, which would end the transfer process."""

    def fail(*_: object, **__: object) -> None:
        raise OSError

    *path, method = what_fails.split(".")
    monkeypatch.setattr(attrgetter(".".join(path))(parts), method, fail)
    put(parts, 1)
    with nothing_left_open(parts):
        deliveries.begin(announced(1), receiver)
        receiver.wait(1)
    assert receiver.messages == [({}, [name_of(1)])]


def test_who_asks_by_itself_does_not_wait_for_another_node(parts: Parts, deliveries: Deliveries) -> None:
    began = time.monotonic()
    with pytest.raises(ObjectMissing):
        deliveries.one(name_of(1))
    assert time.monotonic() - began < parts.fetcher._patience
