"""The spool: durable when it says so, nothing half done when it fails, one owner, one truth (its folders)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from backend.atomic_file import SyncFailed, read_digest
from backend.disk_health import SUSPECT_AFTER
from backend.spool import FOLDERS, IN_DOUBT, Spool, SpoolFull, SpoolInUse, SpoolSuspect

NAME = "11111111-2222-3333-4444-555555555555.dcm"
OTHER = "aaaaaaaa-2222-3333-4444-555555555555.dcm"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", maximum_size=1000)


def names(spool: Spool, folder: str) -> set[str]:
    return set(os.listdir(spool.directory / folder))


def test_an_accepted_attachment_is_pending_whole_and_carries_its_digest(spool: Spool) -> None:
    spool.accept(NAME, b"image")
    path = spool.directory / "pending" / NAME
    assert path.read_bytes() == b"image"
    assert read_digest(path) == sha256(b"image").digest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(spool, "incoming") == set()
    assert spool.used == 5


def test_accept_syncs_the_file_then_renames_then_syncs_the_folder(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, pgBackRest and the power-cut simulation agree on this order."""
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(spool.directory)}")
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        real_rename(source, target)
        steps.append("rename")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    spool.accept(NAME, b"image")
    assert steps == [f"fsync incoming/{NAME}", "rename", "fsync pending"]


def test_an_empty_attachment_is_accepted(spool: Spool) -> None:
    spool.accept(NAME, b"")
    assert (spool.directory / "pending" / NAME).read_bytes() == b""


def test_a_full_spool_refuses_and_writes_nothing(spool: Spool) -> None:
    spool.accept(NAME, b"x" * 600)
    with pytest.raises(SpoolFull, match="MaximumSpoolSizeMB"):
        spool.accept(OTHER, b"x" * 401)
    assert names(spool, "incoming") == set()
    assert names(spool, "pending") == {NAME}
    spool.accept(OTHER, b"x" * 400)


def test_room_comes_back_when_the_transfer_process_has_released_bytes(spool: Spool) -> None:
    spool.accept(NAME, b"x" * 1000)
    spool.released(1000)
    spool.accept(OTHER, b"x" * 1000)
    assert spool.used == 1000


def test_a_recount_after_a_crash_of_the_transfer_process_finds_the_truth(spool: Spool) -> None:
    spool.accept(NAME, b"x" * 400)
    spool.accept(OTHER, b"x" * 500)
    (spool.directory / "pending" / NAME).unlink()  # uploaded, but killed before it could say so
    spool.recount()
    assert spool.used == 500
    spool.released(500)
    assert spool.used == 0


@pytest.mark.parametrize("call", ["fsync", "rename", "writev", "setxattr", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_disk_leaves_nothing_pending_and_no_bytes_reserved(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_arguments: object, **_keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            spool.accept(NAME, b"image")
    assert {folder: names(spool, folder) for folder in FOLDERS} == {folder: set() for folder in FOLDERS}
    assert spool.used == 0
    spool.accept(NAME, b"image")  # healed by itself


def fail_on_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EIO, "Input/output error")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_failing_sync_of_the_folder_is_no_acceptance(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer process may have seen the file already, so it is left to that, with a tombstone."""
    with monkeypatch.context() as patch:
        fail_on_folders(patch)
        with pytest.raises(OSError, match="Input/output error"):
            spool.accept(NAME, b"image")
    assert names(spool, "tombstones") == {NAME}
    assert spool.used == 5
    spool.released(5)  # the transfer process has unlinked it
    assert spool.used == 0


def test_a_tombstone_that_could_not_be_made_durable_is_made_later(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refuse(path: str, *arguments: int) -> int:
        if "tombstones" in str(path):
            raise OSError(errno.EROFS, "Read-only file system")
        return real_open(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="Read-only"):
            spool.bury(NAME)
        assert spool.needs_tending
        spool.tend()
        assert spool.needs_tending
    spool.tend()
    assert names(spool, "tombstones") == {NAME}
    assert not spool.needs_tending


def test_what_cannot_be_unlinked_counts_as_used_until_it_can(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(OSError, match="Read-only"):
            spool.accept(NAME, b"image")
    assert names(spool, "incoming") == {NAME}
    assert spool.used == 5
    spool.tend()
    assert names(spool, "incoming") == set()
    assert spool.used == 0


def test_what_a_read_only_disk_never_got_does_not_count(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """unlink(2) says that the disk is read-only before it says that there is no such file."""

    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only"):
        spool.accept(NAME, b"image")
    assert spool.used == 0
    assert not spool.needs_tending


def test_no_more_removals_are_remembered_than_memory_should_hold(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("backend.spool._MAXIMUM_UNBURIED", 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for name in (NAME, OTHER):
            with pytest.raises(OSError, match="Read-only"):
                spool.bury(name)
    spool.tend()
    assert names(spool, "tombstones") == {NAME}


def test_one_thread_tends_at_a_time(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs must not collect a thread a second."""

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for _ in range(SUSPECT_AFTER):
            with pytest.raises(SyncFailed):
                spool.accept(NAME, b"image")
    with spool._tending:
        spool.tend()
        assert spool.health.is_suspect
    spool.tend()
    assert not spool.health.is_suspect


def test_a_file_that_goes_while_it_is_counted_does_not_count(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.accept(NAME, b"image")
    real_scandir = os.scandir

    def scandir(folder: Path) -> list[os.DirEntry[str]]:
        entries = list(real_scandir(folder))
        (spool.directory / "pending" / NAME).unlink()
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    spool.recount()
    assert spool.used == 0


def test_after_some_failed_syncs_in_a_row_nothing_is_taken_until_a_trial_write_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails fsync may also lose what it confirms."""
    log: list[str] = []
    spool = Spool(tmp_path / "spool", maximum_size=1000, log_error=log.append, log_warning=log.append)

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for _ in range(SUSPECT_AFTER):
            assert spool.health.report() == {"State": "Healthy"}
            with pytest.raises(SyncFailed):
                spool.accept(NAME, b"image")
        with pytest.raises(SpoolSuspect, match=r"Input/output error.*look at that disk"):
            spool.accept(NAME, b"image")
        assert spool.health.report()["State"] == "Suspect"
        assert spool.health.report()["Reason"] == "[Errno 5] Input/output error"
        spool.tend()
        assert spool.health.is_suspect
    with pytest.raises(SpoolSuspect):
        spool.accept(NAME, b"image")  # only a trial write ends it
    spool.tend()
    assert spool.health.report() == {"State": "Healthy"}
    assert names(spool, "incoming") == set()
    spool.accept(NAME, b"image")
    assert [line.split()[0] for line in log] == ["spool_suspect", "spool_healthy"]


def test_failed_syncs_that_are_not_in_a_row_are_no_suspicion(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for number in range(2 * SUSPECT_AFTER):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(SyncFailed):
                spool.accept(NAME, b"image")
        spool.accept(f"{number:08x}-2222-3333-4444-555555555555.dcm", b"image")
    assert not spool.health.is_suspect


def test_a_full_disk_is_not_suspect(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        for _ in range(2 * SUSPECT_AFTER):
            with pytest.raises(OSError, match="No space left"):
                spool.accept(NAME, b"image")
    spool.accept(NAME, b"image")


def test_a_recount_leaves_alone_what_is_on_its_way(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer process may die between a store's rename and its last sync."""
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            assert names(spool, "pending") == {NAME}
            spool.recount()
            assert spool.used == 5

    monkeypatch.setattr(os, "fsync", fsync)
    spool.accept(NAME, b"image")
    assert spool.used == 5


def test_a_recount_on_a_disk_that_cannot_be_read_stays_on_the_safe_side(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.accept(NAME, b"x" * 400)
    spool.accept(OTHER, b"x" * 500)
    spool.released(400)

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        spool.recount()
    assert spool.used == 500
    spool.released(0)
    assert spool.used == 500


def test_the_folders_of_a_new_spool_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    Spool(tmp_path / "new" / "spool", maximum_size=1000)
    assert synced == {str(tmp_path), str(tmp_path / "new"), str(tmp_path / "new" / "spool")}
    synced.clear()
    Spool(tmp_path / "new" / "spool", maximum_size=1000)
    assert synced == set()


def test_short_writes_are_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: real(descriptor, [pieces[0][:7]]))
    spool.accept(NAME, b"an image longer than seven bytes")
    assert (spool.directory / "pending" / NAME).read_bytes() == b"an image longer than seven bytes"


def test_recover_sweeps_what_was_never_acknowledged_and_keeps_what_was(spool: Spool) -> None:
    spool.accept(NAME, b"image")
    spool.stage(OTHER, b"half")
    again = Spool(spool.directory, maximum_size=1000)
    assert again.recover() == 1
    assert names(again, "incoming") == set()
    assert names(again, "pending") == {NAME}
    assert again.used == 5


def test_what_may_still_be_there_counts_as_used_until_the_disk_tells(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool.stage(NAME, b"image")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        patch.setattr(os, "lstat", refuse)
        spool.discard(NAME)
    assert spool.used == 5
    assert spool.needs_tending
    spool.tend()
    assert spool.used == 0
    assert not spool.needs_tending


def test_a_staged_attachment_can_be_forgotten(spool: Spool) -> None:
    spool.stage(NAME, b"image")
    spool.discard(NAME)
    assert names(spool, "incoming") == set()
    assert spool.used == 0


def test_a_removal_is_a_durable_tombstone_and_may_be_repeated(spool: Spool) -> None:
    spool.bury(NAME)
    spool.bury(NAME)
    assert names(spool, "tombstones") == {NAME}


def test_open_reads_what_is_pending_and_only_that(spool: Spool) -> None:
    spool.accept(NAME, b"image")
    descriptor = spool.open(NAME)
    assert descriptor is not None
    assert os.read(descriptor, 100) == b"image"
    os.close(descriptor)
    assert spool.open(OTHER) is None


def test_a_second_owner_is_refused_until_the_first_process_ends(spool: Spool) -> None:
    code = (
        "import sys, pathlib; from backend.spool import Spool;"
        "lock = Spool(pathlib.Path(sys.argv[1]), 1).lock(0); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(spool.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(SpoolInUse, match="another Orthanc"):
            spool.lock(0.1)
        owner.kill()
        os.close(spool.lock(10))


def test_concurrent_stores_share_directory_syncs_and_all_become_pending(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.maximum_size = 10**9
    folder_syncs = _count_slow_folder_syncs(monkeypatch)
    all_names = [f"{index:08x}-2222-3333-4444-555555555555.dcm" for index in range(64)]
    threads = [threading.Thread(target=spool.accept, args=(name, b"image")) for name in all_names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert names(spool, "pending") == set(all_names)
    assert 0 < folder_syncs() < 64


def _count_slow_folder_syncs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    calls: list[int] = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            calls.append(descriptor)
            threading.Event().wait(0.02)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda: len(calls)


def test_what_is_given_up_is_forgotten_here_and_deleted_should_it_have_reached_s3(spool: Spool) -> None:
    spool.stage(NAME, b"image")
    spool.give_up(NAME)
    assert names(spool, "incoming") == set()
    assert names(spool, "tombstones") == {NAME}
    assert spool.used == 0


def test_what_s3_has_confirmed_is_no_longer_counted(spool: Spool) -> None:
    spool.stage(NAME, b"x" * 1000)
    (spool.directory / "incoming" / NAME).unlink()  # the transfer process has put it into the cache
    spool.confirmed(NAME)
    assert spool.used == 0


def test_an_end_in_order_leaves_no_sign_of_a_power_cut(spool: Spool) -> None:
    (spool.directory / "running").write_text("boot")
    spool.end_in_order()
    spool.end_in_order()
    assert not (spool.directory / "running").exists()


def test_a_file_that_goes_while_the_spool_is_measured_is_not_counted(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.accept(NAME, b"x" * 10)
    spool.accept(OTHER, b"x" * 20)
    real = os.scandir

    def scandir(folder: Path) -> list[os.DirEntry[str]]:
        entries = list(real(folder))
        for entry in entries:
            if entry.name == NAME:
                os.unlink(entry.path)
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    spool.recount()
    assert spool.used == 20


def test_a_removal_is_durable_although_the_disk_keeps_no_note_of_what_has_replaced_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", unsupported)
    spool.bury(NAME, replaced_by=NAME.replace("1", "2"))
    assert (spool.directory / "tombstones" / NAME).exists()


@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_tombstone_says_whether_the_removal_is_in_doubt_also_if_it_could_not_be_made_at_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, in_doubt: bool
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(OSError, match="Input/output"):
            spool.bury(NAME, in_doubt=in_doubt)
    spool.tend()
    assert (spool.directory / "tombstones" / NAME).read_bytes() == (IN_DOUBT if in_doubt else b"")


def test_a_disk_without_room_for_the_doubt_takes_the_removal(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    spool.bury(NAME, in_doubt=True)
    assert names(spool, "tombstones") == {NAME}
