"""Fixtures of the operators' tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.backend.maintenance.fake_archive import FakeArchive


@pytest.fixture
def fake(tmp_path: Path) -> FakeArchive:
    return FakeArchive(tmp_path)
