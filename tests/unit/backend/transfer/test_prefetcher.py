"""Fetching ahead: behind readers, within a part of the cache, never twice."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from random import random

import pytest

from backend.cache import open_cached
from backend.stack.processes import wait_until
from backend.transfer.availability import GET
from backend.transfer.download_slots import Priority
from backend.transfer.downloader import NoRoom
from backend.transfer.object_store.errors import AccessDenied, ObjectMissing, ServerFailed
from backend.transfer.prefetcher import CANCELLED, FAILED, FETCHED, HERE, NO_ROOM, Prefetcher
from backend.transfer.single_flight import Flight
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import MAXIMUM_CACHE, Parts

SIZE = 50_000


@pytest.fixture
def prefetcher(parts: Parts) -> Prefetcher:
    return Prefetcher(
        parts.fetcher, parts.cache, availability=parts.availability, counters=parts.counters, threads=4
    )  # fmt: skip


def put(parts: Parts, number: int, size: int = SIZE) -> str:
    content = content_of(number, size)
    parts.store.put_foreign(name_of(number), content, sha256(content).digest())
    return name_of(number)


def fetch(parts: Parts, name: str) -> bytes:
    with os.fdopen(parts.fetcher.fetch(name), "rb") as file:
        return file.read()


def outcomes(prefetcher: Prefetcher, names: list[str], priority: Priority, size: int = SIZE) -> list[str]:
    """Submit these and wait for what becomes of them, in the order in which that is known."""
    ended: list[str] = []
    for name in names:
        assert prefetcher.submit(name, size, priority, ended.append)
    wait_until(lambda: len(ended) == len(names), 10, "all have ended")
    return ended


def test_what_was_fetched_ahead_is_read_from_the_cache_and_counted(parts: Parts, prefetcher: Prefetcher) -> None:
    prefetcher.start()
    name = put(parts, 1)
    assert outcomes(prefetcher, [name], Priority.AHEAD) == [FETCHED]
    assert prefetcher.unread_bytes(Priority.AHEAD) == SIZE
    assert fetch(parts, name) == content_of(1, SIZE)
    assert parts.store.calls == [("get", name)]
    assert prefetcher.read(name)
    assert not prefetcher.read(name)
    counted = parts.counters.snapshot()
    assert (counted["ahead_downloads"], counted["ahead_reads"], counted["downloads"]) == (1, 1, 1)
    assert prefetcher.unread_bytes(Priority.AHEAD) == 0


def test_the_first_reader_of_a_file_fetched_ahead_touches_it(parts: Parts) -> None:
    """So the plugin notices, and says so; a file that was just read is touched no more."""
    name, touched = put(parts, 1), []
    parts.fetch_ahead(name)
    for _ in range(3):
        descriptor = open_cached(parts.cache.directory, name, touched.append)
        assert descriptor is not None
        os.close(descriptor)
    assert touched == [name]


def test_what_is_here_or_on_its_way_is_not_fetched_again(parts: Parts, prefetcher: Prefetcher) -> None:
    prefetcher.start()
    name = put(parts, 1)
    fetch(parts, name)
    assert outcomes(prefetcher, [name], Priority.PREFETCH) == [HERE]
    assert prefetcher.unread_bytes(Priority.PREFETCH) == 0
    parts.spool.accept(name_of(2), b"not in S3 yet")
    assert outcomes(prefetcher, [name_of(2)], Priority.PREFETCH) == [HERE]
    assert len(parts.store.calls) == 1


def test_readers_share_the_download_that_was_begun_ahead(parts: Parts) -> None:
    name = put(parts, 1)
    begun, go = threading.Event(), threading.Event()
    parts.store.before_get = [lambda: (begun.set(), go.wait(10))[0]]  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(5) as pool:
        ahead = pool.submit(parts.fetch_ahead, name)
        assert begun.wait(10)
        readers = [pool.submit(fetch, parts, name) for _ in range(3)]
        assert not parts.fetch_ahead(name), "nobody waits for what is on its way"
        go.set()
        assert [reader.result(10) for reader in readers] == [content_of(1, SIZE)] * 3
        assert ahead.result(10)
    assert parts.store.calls == [("get", name)]


def test_a_reader_does_not_suffer_from_a_failure_ahead_of_him(parts: Parts) -> None:
    """Fetching ahead tries once; who reads tries as hard as ever."""
    name = put(parts, 1)
    begun, go = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        go.wait(10)
        raise ServerFailed("once")

    parts.store.before_get = [fail]
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(parts.fetch_ahead, name)
        assert begun.wait(10)
        reader = pool.submit(fetch, parts, name)
        wait_until(lambda: parts.fetcher._flights._flights[name].users == 2, 10, "the reader has joined")
        go.set()
        with pytest.raises(ServerFailed):
            ahead.result(10)
        assert reader.result(10) == content_of(1, SIZE)


def test_a_missing_object_is_not_waited_for(parts: Parts, prefetcher: Prefetcher) -> None:
    prefetcher.start()
    assert outcomes(prefetcher, [name_of(1)], Priority.PREFETCH) == [FAILED]
    assert parts.store.calls == [("get", name_of(1))]
    with pytest.raises(ObjectMissing):
        fetch(parts, name_of(1))


@pytest.mark.parametrize(("error", "outcome"), [(NoRoom("full"), NO_ROOM), (ZeroDivisionError("a mistake"), FAILED)])
def test_whatever_goes_wrong_is_told_and_its_room_given_back(
    parts: Parts, prefetcher: Prefetcher, error: Exception, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the thread goes on."""
    name = put(parts, 1)
    parts.store.before_get = [raising(error)]
    prefetcher.start()
    assert outcomes(prefetcher, [name], Priority.AHEAD) == [outcome]
    assert prefetcher.unread_bytes(Priority.AHEAD) == 0
    assert outcomes(prefetcher, [name], Priority.AHEAD) == [FETCHED]


def test_while_s3_is_away_nothing_is_tried(parts: Parts, prefetcher: Prefetcher) -> None:
    prefetcher.start()
    parts.availability.failed(GET, AccessDenied("policy"))
    assert outcomes(prefetcher, [put(parts, 1)], Priority.AHEAD) == [FAILED]
    assert parts.store.calls == []


@pytest.mark.parametrize(("priority", "share"), [(Priority.AHEAD, 4), (Priority.PREFETCH, 2)])
def test_what_nobody_has_read_fills_a_part_of_the_cache_only(
    parts: Parts, prefetcher: Prefetcher, priority: Priority, share: int
) -> None:
    """And once it is read there is room for more."""
    read = [put(parts, number) for number in range(100, 110)]
    for name in read:
        fetch(parts, name)
    prefetcher.start()
    names = [put(parts, number) for number in range(30)]
    ended = outcomes(prefetcher, names, priority)
    fetched = MAXIMUM_CACHE // share // SIZE
    assert (ended.count(FETCHED), ended.count(NO_ROOM)) == (fetched, 30 - fetched)
    assert prefetcher.unread_bytes(priority) <= MAXIMUM_CACHE // share
    assert parts.cache.report()["Bytes"] <= MAXIMUM_CACHE
    kept = sum(parts.cached(name).exists() for name in read)
    assert kept * SIZE >= MAXIMUM_CACHE * 0.9 - MAXIMUM_CACHE // share - SIZE or kept == len(read)
    for name in names:
        prefetcher.read(name)
    assert FETCHED in outcomes(prefetcher, [put(parts, 50)], priority)


def test_the_cache_never_grows_past_its_limit_with_everybody_at_once(parts: Parts, prefetcher: Prefetcher) -> None:
    prefetcher.start()
    names = [put(parts, number, 70_000) for number in range(60)]
    done, largest = threading.Event(), 0

    def watch() -> None:
        nonlocal largest
        while not done.is_set():
            # its own account, which is of one moment: a listing counts a file that goes and one that comes after it
            largest = max(largest, parts.cache.report()["Bytes"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    ended: list[str] = []
    for name in names:
        prefetcher.submit(name, 70_000, Priority.AHEAD, ended.append)
        prefetcher.submit(name, 70_000, Priority.PREFETCH, ended.append)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: fetch(parts, name), reversed(names)))
    wait_until(lambda: len(ended) == 2 * len(names), 20, "all have ended")
    done.set()
    watcher.join()
    assert found == [content_of(number, 70_000) for number in reversed(range(60))]
    assert 0 < largest <= MAXIMUM_CACHE
    on_disk = sum(path.stat().st_size for path in (parts.folder / "cache" / "objects").glob("*/*"))
    assert on_disk == parts.cache.report()["Bytes"]


def test_without_a_cache_nothing_is_fetched_ahead(parts: Parts) -> None:
    name = put(parts, 1, MAXIMUM_CACHE + 1)
    with pytest.raises(NoRoom):
        parts.fetch_ahead(name)
    assert os.listdir(parts.folder / "cache" / "fetching") == []


def test_a_removal_meanwhile_keeps_it_out_of_the_cache(parts: Parts) -> None:
    name = put(parts, 1)
    parts.store.before_get = [lambda: parts.spool.bury(name)]
    parts.fetch_ahead(name)
    assert not parts.cached(name).exists()


def test_what_waits_can_be_cancelled(parts: Parts, prefetcher: Prefetcher) -> None:
    ended: list[str] = []
    for number in range(5):
        prefetcher.submit(put(parts, number), SIZE, Priority.PREFETCH, ended.append)
    prefetcher.submit(put(parts, 9), SIZE, Priority.AHEAD, ended.append)
    prefetcher.cancel(Priority.PREFETCH)
    assert ended == [CANCELLED] * 5
    prefetcher.start()
    wait_until(lambda: ended[5:] == [FETCHED], 10, "the other one is fetched")


def test_the_queue_is_bounded(prefetcher: Prefetcher) -> None:
    accepted = [prefetcher.submit(name_of(1), 1, Priority.AHEAD) for _ in range(2001)]
    assert accepted == [True] * 2000 + [False]


def test_what_was_read_unnoticed_is_noticed_when_room_is_short(
    parts: Parts, prefetcher: Prefetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin's hints may be lost; the files' times are not."""
    prefetcher.start()
    fetched = MAXIMUM_CACHE // 4 // SIZE
    names = [put(parts, number) for number in range(fetched)]
    assert outcomes(prefetcher, names, Priority.AHEAD) == [FETCHED] * fetched
    for name in names:
        os.utime(parts.cached(name))
    later = time.monotonic() + 5
    monkeypatch.setattr("backend.transfer.unread.time.monotonic", lambda: later)
    assert outcomes(prefetcher, [put(parts, 99)], Priority.AHEAD) == [FETCHED]


def test_what_a_reader_has_just_fetched_is_not_fetched_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """His download ends between the look into the cache and the beginning of one's own."""
    name = put(parts, 1)
    begin = parts.fetcher._flights.ahead

    def begin_late(name: str) -> AbstractContextManager[Flight | None]:
        assert fetch(parts, name) == content_of(1, SIZE)
        return begin(name)

    monkeypatch.setattr(parts.fetcher._flights, "ahead", begin_late)
    assert not parts.fetch_ahead(name)
    assert parts.store.calls == [("get", name)]


def test_readers_and_prefetches_of_many_files_download_each_once(parts: Parts, prefetcher: Prefetcher) -> None:
    """Whoever comes first, and however close together."""
    prefetcher.start()
    size, count = 5_000, 150
    names = [put(parts, number, size) for number in range(count)]
    parts.store.before_get = [partial(time.sleep, random() * 0.002) for _ in names]
    ended: list[str] = []

    def read(reader: int) -> None:
        for number, name in enumerate(names):
            if reader == number % 4:
                prefetcher.submit(name, size, Priority.AHEAD, ended.append)
            assert fetch(parts, name) == content_of(number, size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    wait_until(lambda: len(ended) == count, 10, "all prefetches have ended")
    assert sorted(parts.store.calls) == sorted(("get", name) for name in names)
    assert set(ended) <= {HERE, FETCHED}
