"""Small files whose place is their state."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from scp.durable_folder import DurableFolder, file_name


@pytest.fixture
def folder(tmp_path: Path) -> DurableFolder:
    return DurableFolder(tmp_path, "here", "there")


def test_what_was_added_is_read_and_listed_oldest_first(folder: DurableFolder) -> None:
    for number, name in enumerate("cab"):
        folder.add("here", name, name.encode())
        os.utime(folder.directory / "here" / name, (number, number))
    assert folder.names("here") == ["c", "a", "b"]
    assert folder.count("here") == 3
    assert folder.read("here", "a") == b"a"
    assert folder.read("there", "a") is None
    assert folder.changed_at("here", "a") == 1
    assert os.listdir(folder.directory / "incoming") == []


def test_add_never_replaces(folder: DurableFolder) -> None:
    folder.add("here", "name", b"first")
    with pytest.raises(FileExistsError):
        folder.add("here", "name", b"second")
    assert folder.read("here", "name") == b"first"
    assert os.listdir(folder.directory / "incoming") == []


def test_put_replaces_and_remove_removes(folder: DurableFolder) -> None:
    folder.put("here", "name", b"first")
    folder.put("here", "name", b"second")
    assert folder.read("here", "name") == b"second"
    folder.remove("here", "name")
    folder.remove("here", "name")
    assert folder.names("here") == []
    assert folder.changed_at("here", "name") == 0


def test_file_and_directory_are_synced_before_it_is_accepted(
    folder: DurableFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    folder.add("here", "name", b"content")
    assert [Path(path).parent.name for path in synced] == ["incoming", folder.directory.name]
    assert synced[-1] == str(folder.directory / "here")


def test_a_full_disk_leaves_nothing(folder: DurableFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        folder.add("here", "name", b"content")
    assert folder.names("here") == os.listdir(folder.directory / "incoming") == []


def test_what_a_crash_left_is_swept_and_what_others_write_is_not(folder: DurableFolder) -> None:
    incoming = folder.directory / "incoming"
    (incoming / "old").touch()
    os.utime(incoming / "old", (time.time() - 7200,) * 2)
    (incoming / "new").touch()
    DurableFolder(folder.directory, "here")
    assert os.listdir(incoming) == ["new"]


def test_names_are_safe_and_do_not_run_into_each_other() -> None:
    names = {file_name("A", "1.2"), file_name("A1", ".2"), file_name("A", "1.2", ""), file_name("../x", "/etc")}
    assert len(names) == 4
    assert all(name.isalnum() and len(name) == 64 for name in names)
