from __future__ import annotations

import pytest

from backend.transfer import series_ahead
from backend.transfer.series_ahead import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    LARGEST_WINDOW_BYTES,
    SeriesAhead,
    in_order,
    is_by_number,
)
from backend.transfer.series_index import Instance


def series(count: int, size: int = 1000) -> SeriesAhead:
    return SeriesAhead("s", [Instance(str(n), f"1.{n}", "", size) for n in range(count)], heads=False)


def read(ahead: SeriesAhead, index: int) -> list[int]:
    """Read one instance; what is fetched for it."""
    ahead.read(index)
    due, _ = ahead.due(ahead.window)
    return due


def test_whoever_reads_in_order_finds_everything_and_each_is_given_out_once() -> None:
    ahead = series(300)
    fetched = [index for start in range(300) for index in read(ahead, start)]
    assert fetched == list(range(1, 300))
    assert ahead.window == LARGEST_WINDOW


def test_the_window_grows_with_what_is_read_from_it() -> None:
    ahead = series(300)
    assert read(ahead, 10) == [11, 12, 13, 14]
    assert read(ahead, 11) == [15, 16]
    assert read(ahead, 12) == [17, 18]
    assert ahead.window == FIRST_WINDOW + 2


def test_readers_at_random_are_given_up_and_have_cost_a_window() -> None:
    ahead = series(1000)
    wasted = [index for place in (500, 100, 900, 300, 700, 50, 850) for index in read(ahead, place)]
    assert ahead.window == 0
    assert len(wasted) <= 2 * FIRST_WINDOW


def test_a_reader_that_comes_back_later_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = series(1000)
    for place in (500, 100, 900, 300):
        read(ahead, place)
    later = series_ahead.time.monotonic() + 61
    monkeypatch.setattr(series_ahead.time, "monotonic", lambda: later)
    assert read(ahead, 0) == [1, 2, 3, 4]


def test_a_reader_that_is_faster_is_overtaken() -> None:
    ahead = series(300)
    read(ahead, 0)
    assert read(ahead, 7) == [8, 9, 10, 11]


def test_several_readers_a_little_out_of_order_are_served_alike() -> None:
    ahead = series(300)
    given = [
        index
        for start in range(0, 296, 8)
        for index in (3, 0, 5, 1, 7, 2, 4, 6)
        for index in read(ahead, start + index)
    ]
    assert len(given) == len(set(given)) > 280


def test_threads_of_one_reader_that_come_in_reverse_order_do_not_turn_it() -> None:
    """Orthanc 1.13 asks for four at a time."""
    ahead = series(300)
    given = [index for start in range(0, 300, 4) for index in (3, 2, 1, 0) for index in read(ahead, start + index)]
    assert given == list(range(4, 300))
    assert ahead.window == LARGEST_WINDOW


def test_the_window_grows_with_each_read_from_it_in_whatever_order() -> None:
    ahead = series(300)
    assert read(ahead, 3) == [4, 5, 6, 7]
    for index in (7, 5, 6, 4):
        read(ahead, index)
    assert ahead.window == FIRST_WINDOW + 4
    read(ahead, 4)
    assert ahead.window == FIRST_WINDOW + 4, "once for each"


def test_a_reader_may_go_backwards() -> None:
    ahead = series(100)
    given = [index for start in range(99, -1, -1) for index in read(ahead, start)]
    assert given == list(range(95, -1, -1))


def test_a_reader_may_turn_back_beyond_where_it_began() -> None:
    ahead = series(100)
    for index in range(50, 60):
        read(ahead, index)
    assert read(ahead, 49) == read(ahead, 48) == []
    assert read(ahead, 47) == [46, 45, 44, 43]


def test_the_window_is_bounded_in_bytes_too() -> None:
    ahead = series(300, size=LARGEST_WINDOW_BYTES // 3)
    assert read(ahead, 0) == [1, 2, 3]
    huge = series(300, size=LARGEST_WINDOW_BYTES * 2)
    assert read(huge, 0) == [1]


def test_what_is_left_of_the_window_at_the_end_is_for_the_next_series() -> None:
    ahead = series(5)
    ahead.read(2)
    assert ahead.due(4) == ([3, 4], 2)
    ahead.read(3)
    assert ahead.due(ahead.window) == ([], 4)
    assert series(100).due(4) == ([0, 1, 2, 3], 0)


def numbered(*numbers: int, identifiers: str = "abcdef") -> list[Instance]:
    return [Instance(identifiers[place], str(number), "", 1, number) for place, number in enumerate(numbers)]


def test_two_reads_show_which_order_is_meant() -> None:
    listed_by_identifier = numbered(4, 1, 6, 2, 5, 3)
    assert is_by_number(listed_by_identifier, "1", "2"), "an archive"
    assert not is_by_number(listed_by_identifier, "1", "6"), "a loop over the list"
    assert is_by_number(listed_by_identifier, "elsewhere", "2"), "archives read many series one after the other"
    assert not is_by_number(numbered(4, 1, 6, identifiers="cab"), "elsewhere", "1"), "Orthanc 1.10: as listed"
    ordered = in_order(listed_by_identifier, by_number=True)
    assert [instance.number for instance in ordered] == [1, 2, 3, 4, 5, 6]
    assert in_order(listed_by_identifier, by_number=False) == listed_by_identifier
