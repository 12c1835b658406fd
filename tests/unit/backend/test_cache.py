"""Opening cached attachments: whatever is wrong with the cache, the answer is "not here", and S3 is asked."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from backend.cache import cache_path, open_cached

NAME = "11111111-2222-3333-4444-555555555555.dcm"


def put(directory: Path, age: float) -> Path:
    path = cache_path(directory, NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"image")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_the_cache_holds_is_opened_and_counts_as_just_read(tmp_path: Path) -> None:
    path = put(tmp_path, age=3600)
    descriptor = open_cached(tmp_path, NAME)
    assert descriptor is not None
    assert os.read(descriptor, 100) == b"image"
    os.close(descriptor)
    assert time.time() - path.stat().st_mtime < 60


def test_what_it_does_not_hold_is_none(tmp_path: Path) -> None:
    assert open_cached(tmp_path, NAME) is None


def test_a_cache_folder_that_is_none_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"a file where a folder should be")
    assert open_cached(tmp_path, NAME) is None


def test_a_disk_that_has_become_read_only_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, age=3600)

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    descriptor = open_cached(tmp_path, NAME)
    assert descriptor is not None
    os.close(descriptor)
