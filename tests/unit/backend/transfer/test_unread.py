from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from backend.cache import UNREAD, cache_path
from backend.transfer import unread as module
from backend.transfer.unread import Unread
from tests.fakes.transfer_child import name_of


@pytest.fixture
def unread(tmp_path: Path) -> Unread:
    return Unread(tmp_path, 100, lifetime=60)


def put(tmp_path: Path, number: int) -> str:
    """A file of the cache that nobody has read."""
    path = cache_path(tmp_path, name_of(number))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, (time.time() - UNREAD,) * 2)
    return path.name


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    at = time.monotonic() + seconds
    monkeypatch.setattr(module.time, "monotonic", lambda: at)


def test_there_is_room_for_so_much_until_it_is_read(unread: Unread, tmp_path: Path) -> None:
    names = [put(tmp_path, number) for number in range(3)]
    assert [unread.add(name, 40) for name in names] == [True, True, False]
    assert (unread.bytes, names[0] in unread, names[2] in unread) == (80, True, False)
    assert unread.remove(names[0])
    assert not unread.remove(names[0])
    assert unread.add(names[2], 40)


def test_what_is_old_has_had_its_chance(unread: Unread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unread.add(put(tmp_path, 1), 100)
    later(monkeypatch, 59)
    assert not unread.add(put(tmp_path, 2), 1)
    later(monkeypatch, 61)
    assert unread.add(put(tmp_path, 2), 1)
    assert unread.bytes == 1


def test_what_is_not_there_yet_or_evicted_counts_until_then(
    unread: Unread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unread.add(name_of(1), 100)
    later(monkeypatch, 5)
    assert not unread.add(name_of(2), 1)
    assert not unread.add(name_of(2), 1), "and the files are not looked at again so soon"


def test_a_disk_that_cannot_be_read_does_not_stop_it(
    unread: Unread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unread.add(name_of(1), 100)
    cache_path(tmp_path, name_of(1)).parent.parent.mkdir()
    cache_path(tmp_path, name_of(1)).parent.write_bytes(b"no folder")
    later(monkeypatch, 5)
    assert unread.add(name_of(2), 1)
