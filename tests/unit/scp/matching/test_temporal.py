"""Dates and times, single and in ranges, apart and combined: PS3.4 C.2.2.2.1.3 and C.2.2.2.5."""

from __future__ import annotations

import pytest

from tests.fakes.data_sets import data_set, received
from tests.unit.scp.matching.helpers import compiled, match

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


class TestC222113DatesAndTimesByMeaning:
    @pytest.mark.parametrize(
        ("keyword", "key", "stored", "expected"),
        [
            ("StudyDate", "19980822", "1998.08.22", True),
            ("StudyDate", "1998.08.22", "19980822", True),
            ("StudyDate", "19980822", "19980823", False),
            ("StudyTime", "2230", "223000", True),
            ("StudyTime", "223000.000", "2230", True),
            ("StudyTime", "22:30:00", "223000", True),
            ("StudyTime", "22", "2230", False),
            ("StudyTime", "235960", "235960", True),
            ("AcquisitionDateTime", "20200101120000+0100", "20200101110000+0000", True),
            ("AcquisitionDateTime", "20200101120000+0100", "20200101120000+0000", False),
            ("AcquisitionDateTime", "202001011200", "20200101120000.000", True),
        ],
    )
    def test_single_value(self, keyword: str, key: str, stored: str, expected: bool) -> None:
        assert match(keyword, key, stored) is expected

    def test_timezone_of_the_data_sets_counts_for_date_times_without_one(self) -> None:
        stored = received(data_set(AcquisitionDateTime="20200101110000", TimezoneOffsetFromUTC="+0000"))
        keys = data_set(AcquisitionDateTime="20200101120000", TimezoneOffsetFromUTC="+0100")
        assert compiled(keys).matches(stored)
        keys.TimezoneOffsetFromUTC = "-0500"
        assert not compiled(keys).matches(stored)

    def test_configured_timezone_counts_where_nothing_else_says(self) -> None:
        assert match("AcquisitionDateTime", "20200101120000", "20200101110000+0000", timezone_offset=60)
        assert match("AcquisitionDateTime", "20200101110000+0000", "20200101120000", timezone_offset=60)

    @pytest.mark.parametrize("stored", ["20201301", "yesterday", "2020", "99999999"])
    def test_a_stored_value_that_is_no_date_matches_no_date(self, stored: str) -> None:
        assert not match("StudyDate", "20200101-", stored)
        assert match("StudyDate", "", stored)


class TestC2225Range:
    @pytest.mark.parametrize(
        ("key", "matching", "other"),
        [
            ("20200101-20200131", ["20200101", "20200115", "20200131", "2020.01.31"], ["20191231", "20200201"]),
            ("-20200131", ["19000101", "20200131"], ["20200201"]),
            ("20200101-", ["20200101", "29991231"], ["20191231"]),
            ("2020.01.01-2020.01.31", ["20200115"], ["20200201"]),
            ("20200101 - 20200131", ["20200115"], ["20200201"]),
            ("20200131-20200101", [], ["20200115", "20200101"]),
        ],
    )
    def test_c22251_of_dates(self, key: str, matching: list[str], other: list[str]) -> None:
        assert all(match("StudyDate", key, stored) for stored in matching)
        assert not any(match("StudyDate", key, stored) for stored in other)

    @pytest.mark.parametrize(
        ("key", "matching", "other"),
        [
            ("1000-1200", ["10", "1000", "110000", "120000", "120059.999999"], ["095959", "120100"]),
            ("-12", ["000000", "125959"], ["1300"]),
            ("100000-", ["10", "235960"], ["095959.999999"]),
            ("100000-100000", ["100000.5"], ["100001"]),
            ("100000-100000.5", ["100000.5", "100000.599999"], ["100000.6"]),
            ("22-02", [], ["23", "01"]),
        ],
    )
    def test_c22252_of_times(self, key: str, matching: list[str], other: list[str]) -> None:
        """The end of a range includes all that its precision covers; a range does not cross midnight."""
        assert all(match("StudyTime", key, stored) for stored in matching)
        assert not any(match("StudyTime", key, stored) for stored in other)

    @pytest.mark.parametrize(
        ("key", "matching", "other"),
        [
            ("2020-2021", ["20200101", "20211231235959", "202106"], ["20191231", "2022"]),
            ("20200101120000-0500-20200101130000-0500", ["20200101173000+0000"], ["20200101123000+0000"]),
            ("-20200101120000-0500", ["20200101170000+0000"], ["20200101170001+0000"]),
            ("20200101120000-0500-", ["20200101170000+0000"], ["20200101165959+0000"]),
            ("20200101120000+0100-20200101130000-0500", ["20200101110000+0000"], ["20200101105959+0000"]),
            ("20200228-202002", ["20200229235959.999999"], ["20200301"]),
            ("202012-202012", ["20201231"], ["20210101"]),
            ("20200101120000-0500", [], ["20200101120000-0500"]),
        ],
    )
    def test_c22253_of_date_times_with_offsets(self, key: str, matching: list[str], other: list[str]) -> None:
        assert all(match("AcquisitionDateTime", key, stored) for stored in matching)
        assert not any(match("AcquisitionDateTime", key, stored) for stored in other)

    def test_c22254_date_and_time_are_independent_unless_combined(self) -> None:
        keys = {"StudyDate": "20200101-20200103", "StudyTime": "100000-120000"}
        stored = received(data_set(StudyDate="20200102", StudyTime="090000"))
        assert not compiled(keys).matches(stored)
        assert compiled(keys, combined=((0x00080020, 0x00080030),)).matches(stored)

    @pytest.mark.parametrize(
        ("date", "time", "expected"),
        [
            ("20200101", "095959", False),
            ("20200101", "100000", True),
            ("20200102", "0000", True),
            ("20200103", "120000", True),
            ("20200103", "120001", False),
        ],
    )
    def test_c22254_combined(self, date: str, time: str, expected: bool) -> None:
        keys = {"StudyDate": "20200101-20200103", "StudyTime": "100000-120000"}
        stored = received(data_set(StudyDate=date, StudyTime=time))
        assert compiled(keys, combined=((0x00080020, 0x00080030),)).matches(stored) is expected

    @pytest.mark.parametrize(
        ("date", "time", "matching", "other"),
        [
            ("20200101-", "10-", [("20200101", "10"), ("20300101", "01")], [("20200101", "0959")]),
            ("-20200101", "-10", [("20200101", "1059"), ("20000101", "23")], [("20200101", "11")]),
            ("20200101-20200102", "-10", [("20200101", "00"), ("20200102", "10")], [("20200102", "11")]),
            ("20200101-20200102", "10-", [("20200102", "235960")], [("20200101", "09"), ("20200103", "00")]),
        ],
    )
    def test_c22254_combined_with_open_ends(
        self, date: str, time: str, matching: list[tuple[str, str]], other: list[tuple[str, str]]
    ) -> None:
        matcher = compiled({"StudyDate": date, "StudyTime": time}, combined=((0x00080020, 0x00080030),))
        assert all(matcher.matches(received(data_set(StudyDate=d, StudyTime=t))) for d, t in matching)
        assert not any(matcher.matches(received(data_set(StudyDate=d, StudyTime=t))) for d, t in other)

    def test_c22254_combined_counts_time_zones_when_both_sides_name_one(self) -> None:
        keys = data_set(StudyDate="20200101-20200101", StudyTime="2300-2359", TimezoneOffsetFromUTC="-0500")
        matcher = compiled(keys, combined=((0x00080020, 0x00080030),))
        stored = data_set(StudyDate="20200102", StudyTime="0430", TimezoneOffsetFromUTC="+0000")
        assert matcher.matches(received(stored))
        del stored.TimezoneOffsetFromUTC
        assert not matcher.matches(received(stored))

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ({"StudyDate": "20200102"}, True),
            ({"StudyDate": "20200105"}, False),
            ({"StudyTime": "11"}, True),
            ({}, True),
        ],
    )
    def test_c22254_combined_with_an_unknown_part(self, stored: dict[str, str], expected: bool) -> None:
        """What is known decides if unknown values match; otherwise both must be known."""
        keys = {"StudyDate": "20200101-20200103", "StudyTime": "100000-120000"}
        pair = ((0x00080020, 0x00080030),)
        assert compiled(keys, combined=pair).matches(received(data_set(stored))) is expected
        assert not compiled(keys, combined=pair, unknown_value_matches=False).matches(received(data_set(stored)))

    def test_c22254_a_single_value_leaves_them_independent(self) -> None:
        keys = {"StudyDate": "20200101", "StudyTime": "100000-120000"}
        matcher = compiled(keys, combined=((0x00080020, 0x00080030),))
        assert matcher.matches(received(data_set(StudyDate="20200101", StudyTime="11")))
        assert not matcher.matches(received(data_set(StudyDate="20200101", StudyTime="13")))
