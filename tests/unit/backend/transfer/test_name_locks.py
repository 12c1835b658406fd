from __future__ import annotations

import threading
from collections import Counter

import pytest

from backend.transfer.name_locks import NameLocks


def test_one_name_is_held_by_one_thread_at_a_time_and_others_do_not_wait() -> None:
    locks = NameLocks()
    inside: Counter[str] = Counter()
    worst: Counter[str] = Counter()

    def work(name: str) -> None:
        for _ in range(300):
            with locks.holding(name):
                inside[name] += 1
                worst[name] = max(worst[name], inside[name])
                inside[name] -= 1

    threads = [threading.Thread(target=work, args=(f"name{number % 3}",)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(worst.values()) == {1}


def test_if_free_does_not_wait() -> None:
    locks = NameLocks()
    with locks.holding("name"), locks.if_free("name") as is_free:
        assert not is_free
    with locks.if_free("name") as is_free:
        assert is_free
        with locks.if_free("name") as again:
            assert not again


def test_an_exception_lets_go() -> None:
    locks = NameLocks()
    with pytest.raises(ValueError, match="inside"), locks.holding("name"):
        raise ValueError("inside")
    with locks.if_free("name") as is_free:
        assert is_free


def test_who_wants_a_name_that_is_held_waits_for_it() -> None:
    locks = NameLocks()
    order = []

    def want() -> None:
        with locks.holding("name"):
            order.append("second")

    with locks.holding("name"):
        thread = threading.Thread(target=want)
        thread.start()
        while not locks._changed._waiters:  # type: ignore[attr-defined]
            pass
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
