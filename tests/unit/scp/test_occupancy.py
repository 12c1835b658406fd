"""Counts that workers share: their own part is written, everybody's is read."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scp.occupancy import Occupancy


@pytest.fixture
def pair() -> Iterator[tuple[Occupancy, Occupancy]]:
    """Two workers with two associations each."""
    descriptor = os.memfd_create("test")
    yield Occupancy(0, 2, 2, 4, descriptor), Occupancy(1, 2, 2, 4, descriptor)
    os.close(descriptor)


def admit(occupancy: Occupancy, address: str = "a", ae_title: str = "T", **limits: int) -> tuple[int, int] | None:
    return occupancy.admit(address, ae_title, limits.get("per_address", 0), limits.get("per_ae_title", 0))


def test_a_full_worker_knows_that_the_other_has_room(pair: tuple[Occupancy, Occupancy]) -> None:
    one, other = pair
    assert admit(one)
    assert admit(one)
    assert one.is_full
    assert not one.is_service_full()
    assert admit(other)
    assert admit(other)
    assert one.is_service_full()
    assert admit(one) is None
    assert admit(other) is None


def test_the_total_counts_not_the_share(pair: tuple[Occupancy, Occupancy]) -> None:
    """A connection taken just before the worker filled up is still served while the service has room."""
    one, _ = pair
    assert all(admit(one) for _ in range(4))
    assert admit(one) is None


def test_leaving_makes_room(pair: tuple[Occupancy, Occupancy]) -> None:
    one, other = pair
    entries = [admit(one) for _ in range(4)]
    assert admit(other) is None
    assert entries[1]
    one.leave(entries[1])
    assert one.associations == 3
    assert admit(other)


def test_limit_per_address_and_ae_title_hold_over_all_workers(pair: tuple[Occupancy, Occupancy]) -> None:
    one, other = pair
    assert admit(one, "a", "T", per_address=2)
    assert admit(other, "a", "U", per_address=2)
    assert admit(one, "a", "V", per_address=2) is None
    assert admit(one, "b", "t", per_ae_title=1) is None  # AE titles are compared without case
    assert admit(one, "b", "V", per_ae_title=1)


def test_the_one_with_less_to_do_is_known(pair: tuple[Occupancy, Occupancy]) -> None:
    one, other = pair
    assert not one.is_busier_than_others()
    one.set_connections(1)
    assert one.is_busier_than_others()
    assert not other.is_busier_than_others()
    other.close()
    assert not one.is_busier_than_others()  # nothing is left to one that takes no more


def test_a_restarted_worker_begins_at_zero(pair: tuple[Occupancy, Occupancy]) -> None:
    one, _ = pair
    descriptor = os.memfd_create("test")
    crashed = Occupancy(0, 1, 2, 2, descriptor)
    assert admit(crashed)
    assert admit(crashed)
    assert Occupancy(0, 1, 2, 2, descriptor).is_service_full() is False
    os.close(descriptor)
    assert one.associations == 0


def test_without_shared_memory_a_worker_counts_itself() -> None:
    alone = Occupancy(0, 1, 1, 1, None)
    assert admit(alone)
    assert alone.is_service_full()
