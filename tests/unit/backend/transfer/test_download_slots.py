from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.stack.processes import wait_until
from backend.transfer.download_slots import DownloadSlots, Priority, Rank, Turns
from backend.transfer.object_store.errors import Unreachable


def test_readers_go_before_what_nobody_waits_for() -> None:
    slots = DownloadSlots(1)
    order: list[Priority] = []

    def use(priority: Priority) -> None:
        with slots.held(priority):
            order.append(priority)

    with ThreadPoolExecutor(8) as pool, slots.held(Priority.READ):
        for priority in (Priority.PREFETCH, Priority.AHEAD, Priority.SEND, Priority.READ):
            pool.submit(use, priority)
            wait_until(lambda p=priority: any(t[0] == p for t in slots._waiting), 10, "it waits")  # type: ignore[misc]
    assert order == sorted(order)


def test_fetching_ahead_leaves_slots_for_readers() -> None:
    slots = DownloadSlots(4)
    release = threading.Event()

    def use(priority: Priority) -> None:
        with slots.held(priority):
            release.wait(10)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(use, Priority.AHEAD)
        wait_until(lambda: len(slots._waiting) == 5, 10, "five wait")
        with slots.held(Priority.READ, timeout=5):
            release.set()


@pytest.mark.parametrize(("cores", "turns"), [(None, 1), (1, 1), (2, 1), (16, 8)])
def test_half_of_the_cores_work_on_what_has_come(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, turns: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert DownloadSlots(32).turns._free == turns


@pytest.mark.parametrize("total", [1, 2])
def test_turns_go_to_whoever_began_first_not_to_who_came_first(total: int) -> None:
    slots, turns = DownloadSlots(8), Turns(total)
    order: list[Rank] = []

    def take(rank: Rank) -> None:
        with turns.held(rank):
            order.append(rank)

    with contextlib.ExitStack() as held, ThreadPoolExecutor(8) as pool:
        priorities = (Priority.AHEAD, Priority.SEND, Priority.SEND, Priority.READ)
        ranks = [held.enter_context(slots.held(priority)) for priority in priorities]
        with contextlib.ExitStack() as busy:
            for number in range(total):
                busy.enter_context(turns.held(-number - 1))
            for number, index in enumerate((2, 0, 3, 1)):
                pool.submit(take, ranks[index])
                wait_until(lambda n=number: len(turns._waiting) == n + 1, 10, "it waits")  # type: ignore[misc]
    if total == 1:  # several run side by side
        assert order == ranks
    assert sorted(order) == sorted(ranks)
    assert turns._free == total


def test_a_turn_that_ends_badly_is_given_on() -> None:
    turns = Turns(1)
    with pytest.raises(OSError, match="full"), turns.held(0):
        raise OSError("full")
    with turns.held(1):
        assert turns._free == 0


def test_who_waits_in_vain_is_told_and_takes_nothing_with_him() -> None:
    slots = DownloadSlots(1)
    with slots.held(Priority.READ), pytest.raises(Unreachable), slots.held(Priority.READ, timeout=0.05):
        pass
    with slots.held(Priority.READ, timeout=0.05):
        pass


def test_no_slot_is_lost_under_load() -> None:
    slots = DownloadSlots(3)
    lock, now, most = threading.Lock(), 0, 0

    def use(number: int) -> None:
        nonlocal now, most
        with slots.held(Priority(number % 4)):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.0002)
            with lock:
                now -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(use, range(400)))
    assert most == 3
    with slots.held(Priority.READ), slots.held(Priority.READ), slots.held(Priority.READ, timeout=1):
        pass


def test_a_slot_that_is_granted_just_after_the_last_moment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would be lost for ever."""
    slots = DownloadSlots(1)
    before = contextlib.ExitStack()
    before.enter_context(slots.held(Priority.READ))

    def wait(*_: object) -> bool:
        before.close()
        return False

    monkeypatch.setattr(threading.Event, "wait", wait)
    with slots.held(Priority.READ):
        assert slots._used == 1
    assert slots._used == 0
