"""Who goes through a study, and what is fetched for them; how far ahead is `test_series_ahead`'s matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest

from backend.cache import cache_path
from backend.stack.processes import wait_until
from backend.transfer import read_ahead as module
from backend.transfer.download_slots import Priority
from backend.transfer.prefetcher import Prefetcher
from backend.transfer.read_ahead import ReadAhead
from backend.transfer.series_ahead import FIRST_WINDOW
from backend.transfer.series_index import IndexUnavailable, Instance, SeriesIndex
from tests.fakes.images import made_up_ct
from tests.fakes.transfer_child import name_of

COUNT: Final = 12  # instances of each series
STUDY: Final = "1.2.3"


def name(series: int, number: int, suffix: str = ".dcm") -> str:
    return name_of(1000 * series + number, suffix)


class Index(SeriesIndex):
    """A study of two series; it may be away, and may have no heads."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.has_heads = True
        self.siblings = ["1", "2"]
        self.counts = {"1": COUNT, "2": COUNT}

    def series_with(self, series_instance_uid: str) -> list[str]:
        if self.failures:
            raise self.failures.pop(0)
        return ["0", series_instance_uid.rpartition(".")[2]]  # "0": of another patient, without this instance

    def instances_of_series(self, series: str) -> list[Instance]:
        return [
            Instance(f"{series}-{n}", f"{STUDY}.{series}.{n}", name(int(series), n, ""), 1000, n)
            for n in range(self.counts.get(series, 0))
        ]

    def series_of_study_with(self, series: str) -> list[str]:
        return self.siblings

    def head_of(self, instance: str) -> tuple[str, int] | None:
        series, _, number = instance.partition("-")
        return (name(int(series), int(number) + 500, ""), 100) if self.has_heads else None


class Queue:
    """Notes what is asked for, in place of the prefetcher."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.read_names: list[str] = []

    def submit(self, name: str, _size: int, priority: Priority) -> bool:
        assert priority is Priority.AHEAD
        self.submitted.append(name)
        return True

    def read(self, name: str) -> bool:
        self.read_names.append(name)
        return False


class Reader:
    """Reads files that had to be fetched into the cache."""

    def __init__(self, folder: Path) -> None:
        self.index, self.queue, self.cache = Index(), Queue(), folder / "cache"
        self.ahead = ReadAhead(self.index, cast("Prefetcher", self.queue), self.cache, legacy=False)

    def misses(self, series: int, number: int, suffix: str = ".dcm", *, study: str = STUDY) -> list[str]:
        """Read what was not here; what is fetched ahead because of it."""
        names = name(series, number + (500 if suffix == ".dcm.head" else 0), suffix)
        path = cache_path(self.cache, names)
        path.parent.mkdir(parents=True, exist_ok=True)
        data_set = made_up_ct(study, f"{study}.{series}", number, side=8)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"{study}.{series}.{number}"
        data_set.save_as(path, enforce_file_format=True)
        return self.looked_at(names, missed=True)

    def looked_at(self, name: str, *, missed: bool) -> list[str]:
        before = len(self.queue.submitted)
        self.ahead._look_at(name, missed=missed)
        return self.queue.submitted[before:]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_the_second_miss_of_a_study_has_the_next_instances_fetched(reader: Reader) -> None:
    assert reader.misses(1, 0) == []
    assert reader.misses(1, 1) == [name(1, n) for n in range(2, 2 + FIRST_WINDOW)]
    assert reader.looked_at(name(1, 2), missed=False) == [name(1, n) for n in (6, 7)]
    assert reader.queue.read_names == [name(1, 0), name(1, 1), name(1, 2)]


def test_misses_of_other_studies_or_of_long_ago_fetch_nothing(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN_STUDIES", 1)
    assert reader.misses(1, 0) == []
    assert reader.misses(1, 0, study="1.2.4") == []
    assert reader.misses(1, 1) == [], "the other study has made it forgotten"
    monkeypatch.setattr(module, "_STUDY_MEMORY", 0.0)
    assert reader.misses(1, 2) == []


def test_what_was_fetched_by_somebody_else_or_is_no_dicom_file_fetches_nothing(reader: Reader) -> None:
    assert reader.looked_at(name(1, 0), missed=False) == []
    path = cache_path(reader.cache, name(1, 0))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a report")
    assert [reader.looked_at(name(1, 0), missed=True) for _ in range(2)] == [[], []]


def test_an_instance_that_the_index_does_not_have_fetches_nothing(reader: Reader) -> None:
    reader.index.counts = {}
    assert [reader.misses(1, 0), reader.misses(1, 1)] == [[], []]


def test_at_the_end_of_a_series_the_next_one_of_the_study_follows(reader: Reader) -> None:
    reader.misses(1, COUNT - 4)
    assert reader.misses(1, COUNT - 3) == [name(1, COUNT - 2), name(1, COUNT - 1), name(2, 0), name(2, 1)]
    assert reader.looked_at(name(1, COUNT - 2), missed=False) == [name(2, 2), name(2, 3)]


@pytest.mark.parametrize("siblings", [["1"], ["2", "1"], []])
def test_after_the_last_series_nothing_follows(reader: Reader, siblings: list[str]) -> None:
    reader.index.siblings = siblings
    reader.misses(1, COUNT - 2)
    assert reader.misses(1, COUNT - 1) == []
    assert reader.looked_at(name(1, COUNT - 1), missed=False) == []


def test_heads_are_followed_by_heads(reader: Reader) -> None:
    reader.index.siblings = ["1"]
    reader.misses(1, 0, ".dcm.head")
    expected = [name(1, n + 500, ".dcm.head") for n in range(2, 2 + FIRST_WINDOW)]
    assert reader.misses(1, 1, ".dcm.head") == expected
    assert reader.misses(1, 9, ".dcm.head") == [name(1, n + 500, ".dcm.head") for n in (10, 11)]


def test_heads_that_have_gone_meanwhile_are_left_out(reader: Reader) -> None:
    reader.index.has_heads = False
    assert [reader.misses(1, number, ".dcm.head") for number in (0, 1)] == [[], []]


def test_a_series_that_has_grown_is_looked_at_anew(reader: Reader) -> None:
    reader.index.siblings = []
    reader.index.counts["1"] = 3
    reader.misses(1, 0)
    assert reader.misses(1, 1) == [name(1, 2)]
    reader.index.counts["1"] = 5
    assert reader.misses(1, 3) == [name(1, 4)]


def test_of_how_many_series_it_knows_is_bounded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN_SERIES", 1)
    reader.index.siblings = []
    for series in (1, 2):
        reader.misses(series, 0)
        reader.misses(series, 1)
    assert set(reader.ahead._places) == {name(2, n) for n in range(COUNT)}


@pytest.mark.parametrize("error", [IndexUnavailable("it starts"), ZeroDivisionError("a mistake of ours")])
def test_a_guess_that_goes_wrong_ends_nothing(
    reader: Reader, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reader.misses(1, 0)
    reader.index.failures = [error]
    reader.ahead.start()
    submitted: Callable[[], Any] = lambda: reader.queue.submitted  # noqa: E731 - for its type
    cache_path(reader.cache, name(1, 1)).parent.mkdir(parents=True, exist_ok=True)
    cache_path(reader.cache, name(1, 1)).write_bytes(cache_path(reader.cache, name(1, 0)).read_bytes())
    reader.ahead.read(name(1, 1), missed=True)
    wait_until(lambda: "read_ahead_failed" in caplog.text, 10, "it is logged")
    reader.ahead.read(name(1, 0), missed=True)
    wait_until(submitted, 10, "the next read is looked at")


def test_reads_that_nobody_looks_at_do_not_pile_up(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(module._QUEUED + 10):
        reader.ahead.read(name_of(number), missed=True)
    assert reader.ahead._reads.qsize() == module._QUEUED
