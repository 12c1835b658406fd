"""Fixtures for the tests of the SCP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.settings import StorageStructure
from scp.attachments import AttachmentFiles
from tests.fakes.transfer_thread import Transfer


@pytest.fixture
def machine_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this machine to a timezone for one test."""

    def move(timezone: str) -> None:
        monkeypatch.setenv("TZ", timezone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    """Where a worker expects the transfer process."""
    transfer = Transfer(tmp_path / "transfer.sock")
    yield transfer
    transfer.close()


@pytest.fixture
def files(tmp_path: Path, transfer: Transfer) -> AttachmentFiles:
    return AttachmentFiles(tmp_path, StorageStructure.FLAT)
