"""A transfer process that answers as the test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.transfer_thread import Transfer


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    server = Transfer(tmp_path / "transfer.sock")
    yield server
    server.close()
