from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from backend.transfer.folder import Folder
from tests.fakes.transfer_child import name_of


def test_an_unchanged_folder_is_not_listed_again(tmp_path: Path) -> None:
    (tmp_path / name_of(1)).touch()
    folder = Folder(tmp_path)
    time.sleep(0.15)  # older than a tick of the clock
    assert folder.changed_names() == {name_of(1)}
    assert folder.changed_names() is None
    (tmp_path / name_of(2)).touch()
    assert folder.changed_names() == {name_of(1), name_of(2)}


def test_a_file_made_in_the_same_tick_as_the_listing_is_not_missed(tmp_path: Path) -> None:
    """The folder's time alone would not show it."""
    folder = Folder(tmp_path)
    (tmp_path / name_of(1)).touch()
    tick = os.stat(tmp_path).st_mtime_ns
    assert folder.changed_names() == {name_of(1)}
    (tmp_path / name_of(2)).touch()
    os.utime(tmp_path, ns=(tick, tick))
    assert folder.changed_names() == {name_of(1), name_of(2)}


def test_nor_where_file_times_are_whole_seconds(tmp_path: Path) -> None:
    """Or what was stored last would wait for the next store to be uploaded."""
    folder = Folder(tmp_path)
    second = time.time_ns() // 10**9 * 10**9
    for number in (1, 2, 3):
        (tmp_path / name_of(number)).touch()
        os.utime(tmp_path, ns=(second, second))
        time.sleep(0.15)  # a tick of a finer clock
        assert folder.changed_names() == {name_of(one) for one in range(1, number + 1)}
    os.utime(tmp_path, ns=(second - 10**10, second - 10**10))
    assert folder.changed_names() is not None
    assert folder.changed_names() is None


def test_strays_are_ignored_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(tmp_path)
    for name in ("README", ".hidden", f"{name_of(1)}.tmp", "x" * 200, "PATIENT^NAME"):
        (tmp_path / name).touch()
    (tmp_path / name_of(1)).touch()
    assert folder.changed_names() == {name_of(1)}
    assert folder.changed_names() == {name_of(1)}
    assert [record.message.split()[0] for record in caplog.records] == ["stray_files"]
    assert "PATIENT" not in caplog.text


def test_a_folder_that_is_gone_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path / "gone").changed_names()
