"""`/isen/prefetch` behind the route: what is asked of Orthanc and handed over, what waits, what is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256

import pytest

from backend.stack.processes import wait_until
from backend.transfer.availability import GET
from backend.transfer.object_store.errors import AccessDenied
from backend.transfer.prefetch_requests import PrefetchRequests
from backend.transfer.prefetcher import Prefetcher
from backend.transfer.series_index import IndexUnavailable, Instance, SeriesIndex
from tests.fakes.transfer_child import content_of, name_of
from tests.unit.backend.transfer.conftest import Parts

SIZE = 1000


class Index(SeriesIndex):
    """Resources of made-up instances, each with a head; it may be away."""

    def __init__(self, resources: dict[str, list[int]]) -> None:
        self.resources = resources
        self.failures: Iterator[bool] = iter(())
        self.asked = threading.Semaphore(0)

    def instances_of(self, resource: str) -> list[Instance]:
        self.asked.release()
        if next(self.failures, False):
            raise IndexUnavailable("it starts")
        return [Instance(str(n), f"1.{n}", name_of(n, ""), SIZE) for n in self.resources.get(resource, [])]

    def head_of(self, instance: str) -> tuple[str, int] | None:
        return name_of(int(instance) + 1000, ""), SIZE


@pytest.fixture
def index() -> Index:
    return Index({"a": [1, 2, 3], "b": [3, 4]})


@pytest.fixture
def requests(parts: Parts, index: Index) -> PrefetchRequests:
    for number in range(10):
        for name, content in (
            (name_of(number), content_of(number, SIZE)),
            (name_of(number + 1000, ".dcm.head"), content_of(number + 1000, SIZE)),
        ):
            parts.store.put_foreign(name, content, sha256(content).digest())
    prefetcher = Prefetcher(
        parts.fetcher, parts.cache, availability=parts.availability, counters=parts.counters, threads=2
    )
    prefetcher.start()
    return PrefetchRequests(index, prefetcher, parts.availability, legacy=False)


def wait_until_done(requests: PrefetchRequests) -> None:
    def is_done() -> bool:
        state = requests.state()
        return state["QueuedResources"] == 0 and state["Attachments"]["UnderWay"] == 0

    wait_until(is_done, 10, "nothing is left to do")


def test_files_and_heads_are_fetched_once_and_counted(requests: PrefetchRequests, parts: Parts) -> None:
    requests.start()
    assert requests.add(["a", "b", "unknown"])["Accepted"] == 3
    wait_until_done(requests)
    assert sorted(parts.store.calls) == sorted(
        ("get", name) for n in (1, 2, 3, 4) for name in (name_of(n), name_of(n + 1000, ".dcm.head"))
    )
    state = requests.state()
    assert state["UnknownResources"] == 1
    assert (state["Attachments"]["Fetched"], state["Attachments"]["AlreadyHere"]) == (8, 2)
    assert state["UnreadBytes"] == 8 * SIZE


def test_the_queue_is_bounded(requests: PrefetchRequests) -> None:
    answer = requests.add([str(n) for n in range(10_001)])
    assert (answer["Accepted"], answer["Refused"]) == (10_000, 1)
    assert requests.add(["a"])["Refused"] == 1


def test_it_waits_for_orthanc(
    requests: PrefetchRequests, index: Index, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.transfer.prefetch_requests._PAUSE", 0.01)
    index.failures = iter([True, True])
    requests.start()
    requests.add(["a"])
    wait_until_done(requests)
    assert len(parts.store.calls) == 6


def test_it_waits_for_s3(requests: PrefetchRequests, parts: Parts) -> None:
    parts.availability.failed(GET, AccessDenied("policy"))
    requests.start()
    requests.add(["a"])
    wait_until(lambda: requests.state()["QueuedResources"] == 1, 10, "it is begun")
    assert parts.store.calls == []
    parts.availability.succeeded(GET)
    wait_until_done(requests)
    assert requests.state()["Attachments"]["Fetched"] == 6


def test_what_is_cancelled_while_s3_is_away_is_never_fetched(
    requests: PrefetchRequests, parts: Parts, index: Index
) -> None:
    parts.availability.failed(GET, AccessDenied("policy"))
    requests.start()
    requests.add(["a", "b"])
    assert index.asked.acquire(timeout=10)
    requests.cancel()
    parts.availability.succeeded(GET)
    wait_until_done(requests)
    assert parts.store.calls == []
    requests.add(["b"])
    wait_until_done(requests)
    assert len(parts.store.calls) == 4, "the next request is served"
