"""What has taken the place of a removed file, by the notes in tombstones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.spool import REPLACED_BY, Spool
from backend.transfer.replacements import is_removed, replacement
from tests.fakes.transfer_child import name_of

OLD, NEWER, NEWEST = name_of(1), name_of(2), name_of(3)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, 1000)


def test_what_has_replaced_it_is_found_also_if_that_was_replaced_in_turn(spool: Spool) -> None:
    spool.bury(OLD, replaced_by=NEWER)
    assert replacement(spool.directory, OLD) == NEWER
    spool.bury(NEWER, replaced_by=NEWEST)
    os.rename(spool.directory / "tombstones" / NEWER, spool.directory / "removed" / NEWER)
    assert is_removed(spool.directory, NEWER)
    assert replacement(spool.directory, OLD) == NEWEST


def test_nothing_has_replaced_what_was_only_removed(spool: Spool) -> None:
    spool.bury(OLD)
    assert replacement(spool.directory, OLD) is None
    spool.bury(NEWER, replaced_by=OLD)
    assert replacement(spool.directory, NEWER) is None


def test_notes_that_lead_nowhere_lead_nowhere(spool: Spool) -> None:
    spool.bury(OLD, replaced_by=NEWER)
    spool.bury(NEWER, replaced_by=OLD)
    assert replacement(spool.directory, OLD) is None
    os.setxattr(spool.directory / "tombstones" / OLD, REPLACED_BY, b"../../etc/passwd")
    assert replacement(spool.directory, OLD) is None
