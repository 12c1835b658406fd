from __future__ import annotations

import logging
import threading
from io import BytesIO

import pytest

from backend.transfer.availability import DELETE, GET, PUT, Availability, ObservedObjectStore
from backend.transfer.object_store.errors import (
    AccessDenied,
    ObjectCorrupted,
    ObjectMissing,
    ServerFailed,
    Throttled,
    Unreachable,
)
from tests.fakes.unsteady_store import UnsteadyStore, raising


def test_a_failure_that_concerns_all_pauses_its_operation_only() -> None:
    availability = Availability()
    availability.failed(PUT, AccessDenied("policy"))
    assert not availability.wait(PUT, 0)
    assert availability.wait(GET, 0)
    availability.succeeded(GET)
    assert not availability.wait(PUT, 0)
    availability.succeeded(PUT)
    assert availability.wait(PUT, 0)


def test_one_object_that_fails_pauses_nothing_but_several_in_a_row_do() -> None:
    availability = Availability()
    for _ in range(3):
        availability.failed(PUT, ServerFailed("500"))
    availability.succeeded(PUT)
    for _ in range(3):
        availability.failed(PUT, ServerFailed("500"))
    assert availability.wait(PUT, 0)
    availability.failed(PUT, ServerFailed("500"))
    assert not availability.wait(PUT, 0)
    assert availability.report()["State"] == "Failing"


@pytest.mark.parametrize("error", [ObjectMissing("x"), ObjectCorrupted("x")])
def test_what_is_wrong_with_an_object_says_nothing_about_the_store(error: ObjectMissing) -> None:
    availability = Availability()
    for _ in range(20):
        availability.failed(GET, error)
    assert availability.report()["State"] == "Available"


def test_each_change_is_told_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    changes: list[str] = []
    availability = Availability(lambda: changes.append(availability.report()["State"]))
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            availability.failed(PUT, Unreachable("no route"))
        availability.failed(DELETE, Throttled("slow down"))
        availability.succeeded(PUT)
        availability.succeeded(DELETE)
        availability.succeeded(DELETE)
    assert changes == ["Unreachable", "Throttled", "Available"]
    assert [record.message.split()[0] for record in caplog.records] == ["object_store_state"] * 3
    assert "no route" in caplog.text


def test_success_lets_everybody_go_on_at_once() -> None:
    availability = Availability()
    availability.failed(PUT, Unreachable("x"))
    released = []
    threads = [threading.Thread(target=lambda: released.append(availability.wait(PUT, 10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    availability.succeeded(PUT)
    for thread in threads:
        thread.join(5)
    assert released == [True] * 8


def test_a_failure_while_the_body_is_read_counts() -> None:
    availability = Availability()
    store = UnsteadyStore()
    store.put_foreign("key", b"bytes")
    observed = ObservedObjectStore(store, availability)
    with pytest.raises(Unreachable), observed.get("key"):
        raise Unreachable("broke off")
    assert availability.report()["State"] == "Unreachable"
    with observed.get("key"):
        pass
    assert availability.report()["State"] == "Available"


def test_every_operation_is_observed() -> None:
    availability = Availability()
    store = UnsteadyStore()
    observed = ObservedObjectStore(store, availability)
    store.before_put = [raising(Unreachable("x"))]
    store.before_delete = [raising(Unreachable("x"))]
    with pytest.raises(Unreachable):
        observed.put("key", BytesIO(), 0, b"")
    with pytest.raises(Unreachable):
        observed.delete("key")
    assert not availability.wait(PUT, 0)
    assert not availability.wait(DELETE, 0)
