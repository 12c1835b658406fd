from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.transfer import just_verified
from backend.transfer.just_verified import JustVerified


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    descriptors = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(3)]
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def test_the_first_reader_alone_may_trust_it(files: list[int]) -> None:
    verified = JustVerified()
    before = time.monotonic()
    verified.add("a", files[0])
    assert before <= verified.take("a", files[0]) <= time.monotonic()
    assert verified.take("a", files[0]) == 0


def test_another_file_of_that_name_is_not_it(files: list[int]) -> None:
    verified = JustVerified()
    verified.add("a", files[0])
    assert not verified.take("a", files[1])
    assert not verified.take("b", files[1])


def test_the_oldest_are_forgotten(files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(just_verified, "_KNOWN", 2)
    verified = JustVerified()
    for number, descriptor in enumerate(files):
        verified.add(str(number), descriptor)
    taken = [verified.take(str(number), descriptor) for number, descriptor in enumerate(files)]
    assert [at > 0 for at in taken] == [False, True, True]
