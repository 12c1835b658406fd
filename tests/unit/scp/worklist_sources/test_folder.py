"""A folder of worklist files: read once, listed for every query, never stopped by a file that cannot be used."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config.settings import DicomSettings
from scp.upper_layer.limits import Limits
from scp.worklist_sources import folder as folder_module
from scp.worklist_sources.folder import MAXIMUM_FILE_SIZE, WorklistFolder
from scp.worklist_sources.protocol import SourceUnavailable
from scp.worklist_sources.selection import Selection
from tests.fakes.data_sets import with_bytes
from tests.fakes.worklists import make_worklist_file, worklist_entry, write_worklist_file

LIMITS = Limits.of(DicomSettings())
PATIENT_ID = 0x00100020
SPS = 0x00400100


@pytest.fixture
def source(tmp_path: Path) -> WorklistFolder:
    return WorklistFolder(tmp_path, LIMITS, lambda: "latin_1")


def patient_ids(source: WorklistFolder) -> list[str]:
    return [entry.attributes[PATIENT_ID].values[0] for entry in source.entries()]


def inode(path: Path) -> int:
    return path.stat().st_ino


def skipped(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == folder_module.__name__]


class TestWhatIsRead:
    def test_every_wl_file_in_the_order_of_their_names(self, source: WorklistFolder, tmp_path: Path) -> None:
        for name in ("b.wl", "a.WL", "c.wl"):
            make_worklist_file(tmp_path / name, PatientID=name[0])
        assert patient_ids(source) == ["a", "b", "c"]

    def test_nothing_else(self, source: WorklistFolder, tmp_path: Path) -> None:
        for name in ("lockfile", ".hidden.wl", "a.wl.tmp", "b.dcm"):
            make_worklist_file(tmp_path / name)
        (tmp_path / "folder.wl").mkdir()
        os.mkfifo(tmp_path / "pipe.wl")
        assert patient_ids(source) == []

    @pytest.mark.parametrize(
        "transfer_syntax",
        [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    )
    def test_any_transfer_syntax(self, source: WorklistFolder, tmp_path: Path, transfer_syntax: str) -> None:
        write_worklist_file(tmp_path / "a.wl", worklist_entry(PatientID="P"), transfer_syntax)
        assert patient_ids(source) == ["P"]

    @pytest.mark.parametrize(("implicit_vr", "little_endian"), [(True, True), (False, True), (False, False)])
    def test_bare_data_sets(
        self, source: WorklistFolder, tmp_path: Path, implicit_vr: bool, little_endian: bool
    ) -> None:
        entry = worklist_entry(PatientID="P")
        entry.save_as(tmp_path / "a.wl", implicit_vr=implicit_vr, little_endian=little_endian)
        assert patient_ids(source) == ["P"]

    def test_links_only_within_the_folder(self, source: WorklistFolder, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        outside = tmp_path.with_name(f"{tmp_path.name}-outside.wl")
        make_worklist_file(outside, PatientID="OUTSIDE")
        make_worklist_file(elsewhere / "data", PatientID="INSIDE")
        (tmp_path / "inside.wl").symlink_to(elsewhere / "data")
        (tmp_path / "outside.wl").symlink_to(outside)
        (tmp_path / "nothing.wl").symlink_to(tmp_path / "absent")
        (tmp_path / "loop.wl").symlink_to(tmp_path / "loop.wl")
        assert patient_ids(source) == ["INSIDE"]

    def test_a_folder_that_is_a_link_itself(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        make_worklist_file(tmp_path / "real" / "a.wl", PatientID="P")
        (tmp_path / "link").symlink_to("real")
        assert patient_ids(WorklistFolder(tmp_path / "link", LIMITS, lambda: "latin_1")) == ["P"]

    def test_the_default_encoding_where_no_character_set_is_named(self, tmp_path: Path) -> None:
        entry = worklist_entry(SpecificCharacterSet=None)
        with_bytes(entry, "PatientName", "Łukasz^Józef".encode("iso8859_2"))
        entry["PatientName"].VR = "PN"
        write_worklist_file(tmp_path / "a.wl", entry)
        (decoded,) = WorklistFolder(tmp_path, LIMITS, lambda: "iso8859_2").entries()
        assert decoded.attributes[0x00100010].values == ("Łukasz^Józef",)


class TestEntries:
    def test_one_for_each_scheduled_procedure_step(self, source: WorklistFolder, tmp_path: Path) -> None:
        """PS3.4 K.6.1.2.1."""
        entry = worklist_entry(1)
        entry.ScheduledProcedureStepSequence.append(worklist_entry(2).ScheduledProcedureStepSequence[0])
        write_worklist_file(tmp_path / "a.wl", entry)
        steps = [found.attributes[SPS].values for found in source.entries()]
        assert [step.attributes[0x00400009].values for (step,) in steps] == [("SPS1",), ("SPS2",)]

    @pytest.mark.parametrize("value", [None, ""])
    @pytest.mark.parametrize(
        "keyword",
        [
            "PatientName",
            "PatientID",
            "Modality",
            "ScheduledStationAETitle",
            "ScheduledProcedureStepStartDate",
            "ScheduledProcedureStepStartTime",
        ],
    )
    def test_k6_1_a_required_attribute_of_type_1_may_not_be_empty(
        self,
        source: WorklistFolder,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        keyword: str,
        value: str | None,
    ) -> None:
        make_worklist_file(tmp_path / "a.wl", **{keyword: value})
        assert not source.entries()
        assert skipped(caplog) == [
            f"worklist_file_skipped inode={inode(tmp_path / 'a.wl')} reason='{keyword} is missing or empty'"
        ]

    @pytest.mark.parametrize("steps", [None, []])
    def test_k6_1_there_is_at_least_one_step(
        self, source: WorklistFolder, tmp_path: Path, steps: list[Any] | None
    ) -> None:
        entry = worklist_entry()
        entry.ScheduledProcedureStepSequence = steps
        write_worklist_file(tmp_path / "a.wl", entry)
        assert not source.entries()

    def test_an_optional_attribute_of_type_1_counts_as_absent_when_empty(
        self, source: WorklistFolder, tmp_path: Path
    ) -> None:
        make_worklist_file(tmp_path / "a.wl", StudyInstanceUID="", ScheduledProcedureStepID="")
        (entry,) = source.entries()
        (step,) = entry.attributes[SPS].values
        assert 0x0020000D not in entry.attributes
        assert 0x00400009 not in step.attributes


class TestFilesThatCannotBeUsed:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not a DICOM file"),
            (b"PatientName: no DICOM at all, but a text that somebody put here", "not a DICOM file"),
            (b"\0" * 200, "not a DICOM file"),
            (b"\0" * 128 + b"DICM", "not a DICOM file"),
            (b"\0" * (MAXIMUM_FILE_SIZE + 1), f"larger than {MAXIMUM_FILE_SIZE} bytes"),
        ],
        ids=["empty", "text", "zeros", "preamble", "large"],
    )
    def test_are_skipped_with_one_log_line(
        self,
        source: WorklistFolder,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        content: bytes,
        reason: str,
    ) -> None:
        (tmp_path / "bad.wl").write_bytes(content)
        make_worklist_file(tmp_path / "good.wl", PatientID="P")
        for _ in range(3):
            assert patient_ids(source) == ["P"]
        assert skipped(caplog) == [f"worklist_file_skipped inode={inode(tmp_path / 'bad.wl')} reason={reason!r}"]

    def test_a_character_set_that_is_none_hides_no_other(self, source: WorklistFolder, tmp_path: Path) -> None:
        """It is a codec of Python's that raises."""
        make_worklist_file(tmp_path / "bad.wl", PatientID="Q", SpecificCharacterSet="ISO_IR 100")
        bad = (tmp_path / "bad.wl").read_bytes()
        (tmp_path / "bad.wl").write_bytes(bad.replace(b"ISO_IR 100", b"hex       "))
        make_worklist_file(tmp_path / "good.wl", PatientID="P")
        assert patient_ids(source) == ["Q", "P"]

    def test_a_file_cut_short_anywhere_is_never_taken_for_another_order(
        self, source: WorklistFolder, tmp_path: Path
    ) -> None:
        """Cut between two attributes it may still be a complete entry; then what it says is right."""
        make_worklist_file(tmp_path / "whole.wl", 7)
        content = (tmp_path / "whole.wl").read_bytes()
        (whole,) = source.entries()
        for length in range(len(content)):
            (tmp_path / "whole.wl").write_bytes(content[:length])
            for entry in source.entries():
                names = set(entry.attributes) - {SPS}
                assert all(entry.attributes[name] == whole.attributes[name] for name in names)
                (step,), (whole_step,) = (one.attributes[SPS].values for one in (entry, whole))
                assert set(step.attributes) == set(whole_step.attributes)

    def test_random_damage_does_no_harm(self, source: WorklistFolder, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "a.wl", 7)
        content = (tmp_path / "a.wl").read_bytes()
        for position in range(0, len(content), 3):
            damaged = bytearray(content)
            damaged[position] ^= 0xFF
            (tmp_path / "a.wl").write_bytes(damaged)
            assert len(source.entries()) <= 1

    def test_deep_nesting_is_refused(self, source: WorklistFolder, tmp_path: Path) -> None:
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x40\x00\x00\x01\xff\xff\xff\xff"
        (tmp_path / "a.wl").write_bytes(
            b"\x08\x00\x60\x00\x02\x00\x00\x00CT\x40\x00\x00\x01\xff\xff\xff\xff" + item * 5000
        )
        assert not source.entries()

    def test_a_deflated_file_that_would_fill_the_memory_is_refused(self, tmp_path: Path) -> None:
        entry = worklist_entry(PatientComments="x" * 100_000)
        write_worklist_file(tmp_path / "a.wl", entry, DeflatedExplicitVRLittleEndian)
        assert WorklistFolder(tmp_path, LIMITS, lambda: "latin_1").entries()
        limits = replace(LIMITS, maximum_inflated_length=100_000)
        assert not WorklistFolder(tmp_path, limits, lambda: "latin_1").entries()

    def test_no_permission(
        self,
        source: WorklistFolder,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is tried again once its permissions have changed."""
        make_worklist_file(tmp_path / "a.wl", PatientID="P")

        def refuse(*_args: object) -> bytes:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:  # tests may run as root, who may read everything
            patch.setattr(folder_module, "_read", refuse)
            assert not source.entries()
        assert skipped(caplog) == [f"worklist_file_skipped inode={inode(tmp_path / 'a.wl')} reason='Permission denied'"]
        (tmp_path / "a.wl").chmod(0o600)
        assert patient_ids(source) == ["P"]


class TestChanges:
    def test_are_seen_by_the_next_query(self, source: WorklistFolder, tmp_path: Path) -> None:
        assert patient_ids(source) == []
        make_worklist_file(tmp_path / "a.wl", PatientID="1")
        assert patient_ids(source) == ["1"]
        make_worklist_file(tmp_path / "a.wl", PatientID="2")
        assert patient_ids(source) == ["2"]
        make_worklist_file(tmp_path / "b.wl", PatientID="3")
        assert patient_ids(source) == ["2", "3"]
        (tmp_path / "a.wl").unlink()
        assert patient_ids(source) == ["3"]

    def test_a_file_that_did_not_change_is_not_read_again(
        self, source: WorklistFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_worklist_file(tmp_path / "a.wl", PatientID="1")
        make_worklist_file(tmp_path / "b.wl", PatientID="2")
        source.entries()
        read: list[str] = []
        real = folder_module._read
        monkeypatch.setattr(folder_module, "_read", lambda path: read.append(path.name) or real(path))
        assert source.entries() is source.entries()
        make_worklist_file(tmp_path / "b.wl", PatientID="3")
        assert patient_ids(source) == ["1", "3"]
        assert read == ["b.wl"]

    def test_a_file_that_vanishes_while_it_is_read_is_gone(
        self, source: WorklistFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_worklist_file(tmp_path / "a.wl")
        real = folder_module._read

        def vanish(path: Path) -> bytes:
            path.unlink()
            return real(path)

        monkeypatch.setattr(folder_module, "_read", vanish)
        assert not source.entries()
        assert not skipped(caplog)

    def test_a_file_that_changes_while_it_is_read_stays_as_it_was(
        self, source: WorklistFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_worklist_file(tmp_path / "a.wl", PatientID="1")
        source.entries()
        make_worklist_file(tmp_path / "a.wl", PatientID="2")
        real = folder_module._read

        def change(path: Path) -> bytes:
            content = real(path)
            make_worklist_file(path, PatientID="3")
            return content

        with monkeypatch.context() as patch:
            patch.setattr(folder_module, "_read", change)
            assert patient_ids(source) == ["1"]
        assert patient_ids(source) == ["3"]

    def test_a_folder_that_cannot_be_listed_is_no_empty_worklist(self, tmp_path: Path) -> None:
        """Raises: SourceUnavailable."""
        source = WorklistFolder(tmp_path / "absent", LIMITS, lambda: "latin_1")
        with pytest.raises(SourceUnavailable, match="cannot be listed"):
            source.entries()
        (tmp_path / "absent").mkdir()
        assert not source.entries()

    def test_too_many_files_are_no_short_worklist(
        self, source: WorklistFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Raises: SourceUnavailable."""
        monkeypatch.setattr(folder_module, "MAXIMUM_FILES", 2)
        for number in range(3):
            make_worklist_file(tmp_path / f"{number}.wl")
        with pytest.raises(SourceUnavailable, match="more than 2 files"):
            source.entries()

    def test_those_who_ask_at_once_share_one_listing(
        self, source: WorklistFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_worklist_file(tmp_path / "a.wl")
        listings: list[int] = []
        first_began, go_on = threading.Event(), threading.Event()
        real = source._list

        def slow() -> None:
            listings.append(1)
            first_began.set()
            assert go_on.wait(10)
            real()

        monkeypatch.setattr(source, "_list", slow)
        threads = [threading.Thread(target=source.entries) for _ in range(8)]
        threads[0].start()
        assert first_began.wait(10)
        for thread in threads[1:]:
            thread.start()
        go_on.set()
        for thread in threads:
            thread.join(10)
        assert len(listings) <= 2


class TestDays:
    def test_a_query_for_some_days_looks_at_their_entries_only(self, source: WorklistFolder, tmp_path: Path) -> None:
        for name, day in (("a", "20240302"), ("b", "20240301"), ("c", "20240302"), ("d", "20240303")):
            make_worklist_file(tmp_path / f"{name}.wl", PatientID=name, ScheduledProcedureStepStartDate=day)

        def found(first: date, last: date) -> list[str]:
            selection = Selection(first.toordinal(), last.toordinal())
            return [entry.attributes[PATIENT_ID].values[0] for entry in source.entries(selection)]

        assert found(date(2024, 3, 2), date(2024, 3, 2)) == ["a", "c"]
        assert found(date(2024, 3, 1), date(2024, 3, 2)) == ["b", "a", "c"]
        assert found(date(2024, 3, 4), date(2024, 3, 9)) == []

    def test_a_step_with_two_dates_is_one_entry(self, source: WorklistFolder, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "a.wl", ScheduledProcedureStepStartDate=["20240302", "20240303"])
        for first, last in ((2, 2), (3, 3), (2, 3)):
            selection = Selection(date(2024, 3, first).toordinal(), date(2024, 3, last).toordinal())
            assert len(source.entries(selection)) == 1


class TestFoldersThatTakeLongToList:
    """As if the listing of three files took as long as that of ten thousand."""

    @pytest.fixture
    def listings(self, monkeypatch: pytest.MonkeyPatch, source: WorklistFolder, tmp_path: Path) -> list[float]:
        monkeypatch.setattr(folder_module, "QUICK_LISTING", 0.0)
        monkeypatch.setattr(folder_module, "LISTINGS_SHARE", 1e-9)
        listings: list[float] = []
        stamps = source._stamps
        monkeypatch.setattr(source, "_stamps", lambda: listings.append(time.monotonic()) or stamps())
        for name in ("a", "b", "c"):
            make_worklist_file(tmp_path / f"{name}.wl", PatientID=name)
        long_ago = time.time() - 60
        os.utime(tmp_path, (long_ago, long_ago))
        return listings

    def test_one_listing_serves_several_queries(self, source: WorklistFolder, listings: list[float]) -> None:
        assert [patient_ids(source) for _ in range(5)] == [["a", "b", "c"]] * 5
        assert len(listings) == 1

    def test_a_file_that_comes_or_goes_is_seen_at_once(
        self, source: WorklistFolder, listings: list[float], tmp_path: Path
    ) -> None:
        assert patient_ids(source) == ["a", "b", "c"]
        make_worklist_file(tmp_path / "d.wl", PatientID="d")
        assert patient_ids(source) == ["a", "b", "c", "d"]
        (tmp_path / "a.wl").unlink()
        assert patient_ids(source) == ["b", "c", "d"]

    def test_a_file_overwritten_in_place_is_seen_soon(
        self, source: WorklistFolder, listings: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "LONGEST_USE", 0.2)
        assert patient_ids(source) == ["a", "b", "c"]
        make_worklist_file(tmp_path / "other", PatientID="z")
        os.utime(tmp_path, (time.time() - 60,) * 2)
        assert patient_ids(source) == ["a", "b", "c"]
        (tmp_path / "b.wl").write_bytes((tmp_path / "other").read_bytes())
        deadline = time.monotonic() + 10
        while patient_ids(source) != ["a", "z", "c"]:
            assert time.monotonic() < deadline
