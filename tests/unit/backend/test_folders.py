"""Whether spool and cache can live in their folders."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from backend import folders
from backend.folders import (
    VOLATILE,
    advise_folders,
    check_folders,
    check_structure,
    file_system,
    keeps_attributes,
    nearest,
)
from tests.fakes.transfer_child import name_of

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the one tmpfs of every Linux


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def test_folders_that_exist_or_can_be_made_are_fine_and_left_alone(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "spool").mkdir()
    assert check_folders(tmp_path / "spool", cache / "deep" / "down", volatile_allowed=True) == []
    assert list(tmp_path.rglob("*")) == [tmp_path / "spool"]


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_place_of_a_folder_is_named(below: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").touch()
    (problem,) = check_folders(tmp_path / "file" / below, cache, volatile_allowed=True)
    assert problem.startswith(f"Isen.Storage.SpoolDirectory: {tmp_path}/file is not a folder")


def test_a_dangling_link_is_not_a_folder(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (problem,) = check_folders(tmp_path / "link", cache, volatile_allowed=True)
    assert "is not a folder" in problem


def test_a_folder_nobody_can_write_is_named(cache: Path) -> None:
    (problem,) = check_folders(cache, Path("/sys/kernel"), volatile_allowed=True)
    assert problem.startswith("Isen.Storage.CacheDirectory: /sys/kernel is not writable by user")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("there", ["spool/pending/attachment", "cache/objects/at/attachment"])
def test_a_full_disk_keeps_nobody_from_making_room_on_it(
    number: int, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, cache = tmp_path / "spool", tmp_path / "cache"
    for folder in (spool / "pending", cache / "objects"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", failing(number))
    assert len(check_folders(spool, cache, volatile_allowed=True)) == 2, "nobody will make room"
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    assert check_folders(spool, cache, volatile_allowed=True) == []
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", failing(errno.EROFS))
    assert len(check_folders(spool, cache, volatile_allowed=True)) == 2


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "mounted read-only"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "change its owner or mode"),
    ],
)
def test_the_remedy_fits_the_failure(
    number: int, remedy: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", failing(number))
    (problem,) = check_folders(tmp_path / "spool", cache, volatile_allowed=True)
    assert problem.startswith("Isen.Storage.SpoolDirectory:")
    assert remedy in problem


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    problem, _ = check_folders(tmp_path / "spool", cache, volatile_allowed=True)
    assert f"cannot be made, because {tmp_path} is not writable" in problem


@pytest.mark.skipif(file_system(SHARED_MEMORY) != "tmpfs", reason="another file system than usual")
def test_a_spool_that_does_not_survive_a_restart_needs_consent(cache: Path) -> None:
    spool = SHARED_MEMORY / "isen-test" / "spool"
    (problem,) = check_folders(spool, cache, volatile_allowed=False)
    assert problem.startswith(f"Isen.Storage.SpoolDirectory: {spool} is on tmpfs")
    assert "AllowVolatileSpool" in problem
    assert check_folders(spool, cache, volatile_allowed=True) == []
    is_volatile = file_system(cache) in VOLATILE
    assert not check_folders(cache, spool, volatile_allowed=is_volatile), "a cache may be volatile"


class TestFileSystem:
    """mount points as the kernel lists them, with spaces escaped and mounts hiding each other."""

    LINES = (
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "23 22 0:20 / /mnt rw - nfs server:/ rw\n"
        "24 22 0:21 / /mnt/with\\040space rw shared:1 - xfs /dev/vdb rw\n"
        "25 22 0:22 / /mnt/twice rw - ext4 /dev/vdc rw\n"
        "26 22 0:23 / /mnt/twice rw - tmpfs none rw\n"
    )

    @pytest.mark.parametrize(
        ("place", "kind"),
        [
            ("/", "ext4"),
            ("/mntx", "ext4"),
            ("/mnt", "nfs"),
            ("/mnt/a", "nfs"),
            ("/mnt/with space/spool", "xfs"),
            ("/mnt/with", "nfs"),
            ("/mnt/twice/a", "tmpfs"),
        ],
    )
    def test_is_that_of_the_innermost_mount(
        self, place: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mountinfo").write_text(self.LINES)
        monkeypatch.setattr(folders, "MOUNTS", tmp_path / "mountinfo")
        monkeypatch.setattr(folders, "nearest", lambda folder: folder)
        assert file_system(Path(place)) == kind

    def test_is_unknown_without_the_kernels_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "MOUNTS", Path("/nowhere"))
        assert file_system(Path("/")) == ""


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert nearest(tmp_path) == tmp_path


@pytest.mark.skipif(not SHARED_MEMORY.exists(), reason="no /dev/shm")
def test_two_file_systems_are_worth_advice(tmp_path: Path) -> None:
    (advice,) = [line for line in advise_folders(tmp_path, SHARED_MEMORY) if "CacheDirectory" in line]
    assert "put both on one file system" in advice
    assert not [line for line in advise_folders(tmp_path, tmp_path / "cache") if "CacheDirectory" in line]


def test_a_file_system_without_extended_attributes_is_worth_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "setxattr", failing(errno.ENOTSUP))
    assert not keeps_attributes(tmp_path)
    assert any("extended attributes" in line for line in advise_folders(tmp_path, tmp_path))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_was_stored_with_the_other_structure_has_to_be_uploaded_first(tmp_path: Path, legacy: bool) -> None:
    assert check_structure(tmp_path, legacy=legacy) == []
    (tmp_path / "pending").mkdir()
    for name in (name_of(1, "" if legacy else ".dcm"), "stray.file", "stray"):
        (tmp_path / "pending" / name).touch()
    assert check_structure(tmp_path, legacy=legacy) == []
    (problem,) = check_structure(tmp_path, legacy=not legacy)
    assert problem.startswith(f"Isen.Storage.StorageStructure: 1 attachments in {tmp_path}")
