"""Timezone query adjustment: PS3.4 C.5.1.1 (byte 4), C.2.2.2.5.2 and C.4.1.1.3.2."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from scp.matching import Attribute, Candidate, Clock, MatchingOptions, compile_identifier
from scp.matching.answer import full_dataset
from scp.statuses import Refusal
from tests.fakes.data_sets import data_set, received
from tests.unit.scp.matching.helpers import SPS
from tests.unit.scp.matching.test_against_reference import unhurried

MOVE = Callable[[str], None]


def by_clock(offset: str, stored: Dataset | dict[str, Any]) -> Dataset:
    """Everything of a stored data set as a requester with this offset is answered."""
    keys = Candidate.of(received(data_set(TimezoneOffsetFromUTC=offset)))
    clock = Clock.of(keys, negotiated=True)
    assert clock
    stored = stored if isinstance(stored, Dataset) else data_set(stored)
    return full_dataset(clock.adjusted(Candidate.of(received(stored))))


class TestC511TimezoneQueryAdjustment:
    @pytest.mark.parametrize(
        ("stored", "offset", "date", "time"),
        [
            (("20240229", "233000"), "+0100", "20240301", "003000"),
            (("20240301", "003000"), "-0100", "20240229", "233000"),
            (("20240301", "0030"), "+0530", "20240301", "0600"),
            (("20240301", "10"), "+0200", "20240301", "12"),
            (("20240301", "10"), "+0530", "20240301", "1530"),
            (("20240301", "101112.5"), "-1200", "20240229", "221112.5"),
            (("2024.03.01", "10:11:12"), "+0100", "20240301", "111112"),
            (("20240301", "235960"), "+0100", "20240302", "005960"),
        ],
    )
    def test_a_date_moves_with_its_time_as_precise_as_it_was(
        self, stored: tuple[str, str], offset: str, date: str, time: str
    ) -> None:
        keys = {"StudyDate": stored[0], "StudyTime": stored[1], "TimezoneOffsetFromUTC": "+0000"}
        answer = by_clock(offset, keys)
        assert (answer.StudyDate, answer.StudyTime) == (date, time)

    def test_the_clock_of_the_machine_is_that_of_data_sets_without_one_summer_time_included(
        self, machine_in: MOVE
    ) -> None:
        machine_in("Europe/Berlin")
        for date, time in (("20240115", "0900"), ("20240715", "0800")):
            answer = by_clock("+0000", {"StudyDate": date, "StudyTime": "1000"})
            assert (answer.StudyDate, answer.StudyTime) == (date, time)

    def test_a_date_without_a_time_and_a_birthday_stay(self) -> None:
        keys = {
            "StudyDate": "20240301",
            "SeriesDate": "20240301",
            "SeriesTime": "",
            "PatientBirthDate": "19600101",
            "PatientBirthTime": "0001",
            "TimezoneOffsetFromUTC": "+0000",
        }
        answer = by_clock("-1000", keys)
        assert answer.StudyDate == answer.SeriesDate == "20240301"
        assert (answer.PatientBirthDate, answer.PatientBirthTime) == ("19600101", "0001")

    def test_a_time_without_a_date_moves_within_its_day(self) -> None:
        assert by_clock("-0100", {"StudyTime": "0030", "TimezoneOffsetFromUTC": "+0000"}).StudyTime == "2330"

    def test_date_times_move_unless_they_say_themselves_by_which_clock(self) -> None:
        keys = {"AcquisitionDateTime": "20240301003000.25", "TimezoneOffsetFromUTC": "+0000"}
        assert by_clock("-0100", keys).AcquisitionDateTime == "20240229233000.25"
        keys["AcquisitionDateTime"] = "20240301003000+0000"
        assert by_clock("-0100", keys).AcquisitionDateTime == "20240301003000+0000"
        keys["AcquisitionDateTime"] = "20240301"
        assert by_clock("-0100", keys).AcquisitionDateTime == "20240301"

    def test_items_of_sequences_move_too(self) -> None:
        step = {"ScheduledProcedureStepStartDate": "20240301", "ScheduledProcedureStepStartTime": "0030"}
        (item,) = by_clock("-0100", data_set({SPS: step, "TimezoneOffsetFromUTC": "+0000"}))[SPS]
        assert (item.ScheduledProcedureStepStartDate, item.ScheduledProcedureStepStartTime) == ("20240229", "2330")

    @pytest.mark.parametrize("value", ["", "now", "99999999", "00010101"])
    def test_what_is_no_moment_stays(self, value: str) -> None:
        stored = Candidate({0x00080020: Attribute("DA", (value,)), 0x00080030: Attribute("TM", ("0000",))}, 0)
        assert Clock(-60).adjusted(stored).attributes[0x00080020].values == (value,)

    def test_nothing_is_adjusted_unless_negotiated_and_asked_for(self) -> None:
        keys = Candidate.of(received(data_set(TimezoneOffsetFromUTC="+0100")))
        assert Clock.of(keys, negotiated=False) is None
        assert Clock.of(Candidate.of(received(data_set(PatientID="P"))), negotiated=True) is None
        with pytest.raises(Refusal, match="0xA900"):
            Clock.of(Candidate.of(received(data_set(TimezoneOffsetFromUTC="1"))), negotiated=True)


OFFSETS = st.integers(-12 * 4, 14 * 4).map(lambda quarters: quarters * 15)
START = dt.datetime(2024, 2, 27)  # noqa: DTZ001 - by whatever clock
MOMENTS = st.integers(0, 5 * 86400).map(lambda seconds: START + dt.timedelta(seconds=seconds))


@unhurried
@given(MOMENTS, MOMENTS, MOMENTS, OFFSETS, OFFSETS)
def test_a_combined_range_is_matched_as_moments_of_universal_time(
    first: dt.datetime, last: dt.datetime, stored: dt.datetime, asked_offset: int, stored_offset: int
) -> None:
    """The reference is Python's arithmetic of moments with a timezone."""
    first, last = sorted((first, last))
    asked_zone, stored_zone = (dt.timezone(dt.timedelta(minutes=m)) for m in (asked_offset, stored_offset))
    expected = first.replace(tzinfo=asked_zone) <= stored.replace(tzinfo=stored_zone) <= last.replace(tzinfo=asked_zone)
    keys = data_set(
        AcquisitionDateTime=f"{first:%Y%m%d%H%M%S}-{last:%Y%m%d%H%M%S}",
        StudyDate=f"{first:%Y%m%d}-{last:%Y%m%d}",
        StudyTime=f"{first:%H%M%S}-{last:%H%M%S}",
        TimezoneOffsetFromUTC=f"{first.replace(tzinfo=asked_zone):%z}",
    )
    candidate = Candidate.of(
        received(
            data_set(
                AcquisitionDateTime=f"{stored:%Y%m%d%H%M%S}",
                StudyDate=f"{stored:%Y%m%d}",
                StudyTime=f"{stored:%H%M%S}",
                TimezoneOffsetFromUTC=f"{stored.replace(tzinfo=stored_zone):%z}",
            )
        )
    )
    for kept in (("AcquisitionDateTime",), ("StudyDate", "StudyTime")):
        asked = data_set({"TimezoneOffsetFromUTC": keys.TimezoneOffsetFromUTC, **{k: keys[k].value for k in kept}})
        clock = Clock.of(Candidate.of(received(asked)), negotiated=True)
        assert clock
        options = MatchingOptions(combined=((0x00080020, 0x00080030),))
        matcher = compile_identifier(received(asked), options)
        assert matcher.matches(clock.adjusted(candidate)) is expected
