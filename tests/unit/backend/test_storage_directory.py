"""The folder of Orthanc's own storage area: durable as the spool is, and open to Orthanc without Isen."""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backend.atomic_file import read_digest
from backend.storage_directory import INCOMING, StorageDirectory, storage_path

NAME = "11223333-4444-5555-6666-777777777777.dcm"
DIGEST = sha256(b"image").digest()


@pytest.fixture
def directory(tmp_path: Path) -> StorageDirectory:
    made = StorageDirectory(tmp_path)
    made.recover()
    return made


@pytest.mark.parametrize("extension", [".dcm", ".dcm.head", ".json", ".unk", ""])
def test_the_layout_is_orthancs(directory: StorageDirectory, tmp_path: Path, extension: str) -> None:
    uuid = NAME.removesuffix(".dcm")
    directory.write(uuid + extension, b"image", DIGEST)
    path = tmp_path / "11" / "22" / uuid
    assert path.read_bytes() == b"image"
    assert read_digest(path) == DIGEST
    assert storage_path(tmp_path, uuid + extension) == path
    descriptor = directory.open(uuid + extension)
    assert descriptor is not None
    os.close(descriptor)


def test_what_is_absent_is_none_and_can_be_removed(directory: StorageDirectory) -> None:
    assert directory.open(NAME) is None
    assert not directory.has(NAME)
    directory.remove(NAME)
    directory.write(NAME, b"image", DIGEST)
    assert directory.has(NAME)
    directory.remove(NAME)
    assert directory.open(NAME) is None


def test_a_folder_that_cannot_be_read_is_not_absence(directory: StorageDirectory, tmp_path: Path) -> None:
    (tmp_path / "11").write_bytes(b"in the way")
    with pytest.raises(NotADirectoryError):
        directory.open(NAME)


class Disk:
    """Writes down what happens to the disk, in order, and fails where the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.log: list[str] = []
        self.fails: str | None = None
        self._root = root
        for call in ("fsync", "rename", "mkdir"):
            monkeypatch.setattr(os, call, self._told(call, getattr(os, call)))

    def _told(self, call: str, real: Any) -> Any:
        def wrapper(target: Any, *rest: Any, **options: Any) -> Any:
            if call == "fsync":
                path = Path(os.readlink(f"/proc/self/fd/{target}"))
            else:
                path = Path(rest[0] if call == "rename" else target)
            event = f"{call} {'temporary' if path.parent.name == INCOMING else path.relative_to(self._root)}"
            self.log.append(event)
            if event == self.fails:
                raise OSError(errno.EIO, "made up")
            return real(target, *rest, **options)

        return wrapper


def test_bytes_file_and_every_folder_above_are_synced_before_it_returns(
    directory: StorageDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of folders that exist: Orthanc, which may have made them, does not sync them."""
    uuid = NAME.removesuffix(".dcm")
    disk = Disk(monkeypatch, tmp_path)
    directory.write(NAME, b"image", DIGEST)
    made = ["mkdir 11", "mkdir 11/22", "fsync 11", "fsync ."]
    assert disk.log == ["fsync temporary", *made, f"rename 11/22/{uuid}", "fsync 11/22"]
    disk.log.clear()
    directory.write(NAME.replace("3333", "3334"), b"image", DIGEST)
    assert [event.split()[0] for event in disk.log] == ["fsync", "rename", "fsync"]
    disk.log.clear()
    StorageDirectory(tmp_path).write(NAME.replace("3333", "3335"), b"image", DIGEST)
    assert "fsync 11" in disk.log
    assert "fsync ." in disk.log


@pytest.mark.parametrize(
    "fails", ["fsync temporary", "fsync 11", "fsync .", "rename 11/22/" + NAME.removesuffix(".dcm"), "fsync 11/22"]
)
def test_a_disk_that_fails_leaves_nothing_under_the_name(
    directory: StorageDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    disk.fails = fails
    with pytest.raises(OSError, match="made up"):
        directory.write(NAME, b"image", DIGEST)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    disk.fails = None
    directory.write(NAME, b"image", DIGEST)
    assert directory.has(NAME)


def test_only_what_a_crash_left_long_ago_is_swept(directory: StorageDirectory, tmp_path: Path) -> None:
    """Another Orthanc that shares the folder may be writing."""
    old, new = tmp_path / INCOMING / "old", tmp_path / INCOMING / "new"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    directory.recover()
    assert [path.name for path in (tmp_path / INCOMING).iterdir()] == ["new"]
