from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.spool import Spool
from backend.transfer import power_cut
from backend.transfer.power_cut import Recheck
from tests.fakes.transfer_child import name_of

OLD, YOUNG, UPLOADED, BURIED, REMOVED = map(name_of, range(5))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool in use, with files that are young by what lies beside them and not by the clock."""
    Spool(tmp_path, 1000)
    assert power_cut.noticed_at_start(tmp_path) is None
    for folder, name, age in (
        ("pending", OLD, 5000),
        ("pending", YOUNG, 3610),
        ("uploaded", UPLOADED, 3600),
        ("tombstones", BURIED, 3650),
        ("removed", REMOVED, 9000),
    ):
        (tmp_path / folder / name).write_bytes(b"")
        os.utime(tmp_path / folder / name, (time.time() - age,) * 2)
    (tmp_path / "pending" / "stray").touch()
    return tmp_path


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are pending that not all of them are looked at."""
    monkeypatch.setattr(power_cut, "_MANY", 0)


EXPECTED = Recheck(sorted([YOUNG, UPLOADED]), sorted([BURIED, REMOVED]))


def failing(number: int, synced: list[str] | None = None) -> Callable[[int], None]:
    """An fsync(2) that fails for files; the folders that it syncs are added to `synced`."""

    def sync(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        if synced is not None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    return sync


def another_boot(spool: Path) -> None:
    (spool / "running").write_text("another boot\n")


def end_in_order(spool: Path) -> None:
    (spool / "running").unlink(missing_ok=True)  # the plugin does


def test_processes_that_were_killed_and_an_end_in_order_leave_nothing_to_look_at(spool: Path) -> None:
    assert power_cut.noticed_at_start(spool) is None
    assert power_cut.noticed_at_start(spool) is None
    end_in_order(spool)
    assert power_cut.noticed_at_start(spool) is None


def test_a_power_cut_asks_for_the_young_ones(spool: Path) -> None:
    another_boot(spool)
    assert power_cut.noticed_at_start(spool) == EXPECTED


def test_it_is_asked_for_until_it_is_repaired(spool: Path) -> None:
    another_boot(spool)
    power_cut.noticed_at_start(spool)
    (spool / "pending" / name_of(9)).touch()  # accepted since
    assert power_cut.noticed_at_start(spool) == EXPECTED
    power_cut.repaired(spool)
    assert power_cut.noticed_at_start(spool) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_power_cut_is_noticed_though_the_disk_was_full(
    number: int, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_in_order(spool)
    synced: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(number, synced))
        assert power_cut.noticed_at_start(spool) is None
    assert synced == [str(spool)]
    assert power_cut.noticed_at_start(spool) == EXPECTED, "it cannot be told that there was none"


def test_a_power_cut_is_seen_to_though_the_disk_is_full(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another_boot(spool)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        assert power_cut.noticed_at_start(spool) == EXPECTED
    power_cut.repaired(spool)
    assert power_cut.noticed_at_start(spool) == EXPECTED, "and once more when there is room"
    power_cut.repaired(spool)
    assert power_cut.noticed_at_start(spool) is None


def test_a_disk_that_fails_keeps_it_from_starting(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another_boot(spool)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        power_cut.noticed_at_start(spool)


def test_a_second_power_cut_adds_to_the_first(spool: Path) -> None:
    another_boot(spool)
    power_cut.noticed_at_start(spool)
    (spool / "pending" / YOUNG).unlink()
    (spool / "tombstones" / YOUNG).touch()
    (spool / "pending" / name_of(9)).touch()
    another_boot(spool)
    found = power_cut.noticed_at_start(spool)
    assert found == Recheck(sorted([UPLOADED, name_of(9)]), sorted([BURIED, REMOVED, YOUNG]))


def test_there_may_be_nothing_young(tmp_path: Path) -> None:
    Spool(tmp_path, 1000)
    another_boot(tmp_path)
    assert power_cut.noticed_at_start(tmp_path) == Recheck([], [])


def test_what_is_removed_need_not_be_stored(spool: Path) -> None:
    (spool / "tombstones" / UPLOADED).touch()
    another_boot(spool)
    found = power_cut.noticed_at_start(spool)
    assert found is not None
    assert UPLOADED not in found.stored
    assert UPLOADED in found.removed


def test_a_file_from_the_future_does_not_make_the_others_old(spool: Path) -> None:
    os.utime(spool / "pending" / OLD, (time.time() + 90_000,) * 2)
    another_boot(spool)
    found = power_cut.noticed_at_start(spool)
    assert found is not None
    assert {YOUNG, UPLOADED, OLD} == set(found.stored)


def test_a_clock_that_was_set_back_does_not_hide_the_young_ones(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour, just before the power cut, and the machine was down for longer: the youngest looks the oldest."""
    monkeypatch.setattr(power_cut, "_MANY", 10)
    os.utime(spool / "pending" / YOUNG, (time.time() - 90_000,) * 2)
    (spool / "pending" / name_of(8, ".unk")).touch()
    os.utime(spool / "pending" / name_of(8, ".unk"), (time.time() - 90_000,) * 2)
    another_boot(spool)
    found = power_cut.noticed_at_start(spool)
    assert found is not None
    assert {OLD, YOUNG, UPLOADED} == set(found.stored), "nobody could tell whose the other attachment is"
    assert {BURIED, REMOVED} == set(found.removed), "an older deletion is not repeated: the index may be a backup's"


def test_the_note_is_on_the_disk_whole_or_not_at_all(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the boot noted before the list, a crash between the two would forget the power cut."""
    another_boot(spool)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    power_cut.noticed_at_start(spool)
    assert [Path(path).name for path in synced] == ["recheck.new", spool.name, "running.new", spool.name]


@pytest.mark.parametrize("garbage", ["", "{}", '{"stored": [], "removed": [], "later": []}'])
def test_a_list_that_cannot_be_read_is_made_again(spool: Path, garbage: str, caplog: pytest.LogCaptureFixture) -> None:
    (spool / "recheck.json").write_text(garbage)
    assert power_cut.noticed_at_start(spool) == EXPECTED
    assert "recheck_unreadable" in caplog.text
