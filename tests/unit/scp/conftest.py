"""Fixtures for the tests of the SCP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def machine_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this machine to a timezone for one test."""

    def move(timezone: str) -> None:
        monkeypatch.setenv("TZ", timezone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()
