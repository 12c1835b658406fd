"""Combined date-time matching (PS3.4 C.2.2.2.5.4, and Table K.6-1 without negotiation): a range of dates and a range of
times form one interval, from the first date at the first time to the last date at the last time.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from scp.matching.attribute import compile_ranges, is_universal
from scp.matching.candidate import AttributeName, Candidate
from scp.matching.options import MatchingOptions
from scp.matching.temporal import DAY, EVER, MINUTE, Range, parse_date, parse_time


class Interval(NamedTuple):
    """One interval of microseconds, [start, end), asked of a pair of attributes."""

    date_name: AttributeName
    time_name: AttributeName
    dates: Range
    start: int
    end: int
    timezone_offset: int | None  # of the Identifier, in minutes
    local_timezone_offset: int | None  # of stored values that name none

    def matches(self, candidate: Candidate, unknown_value_matches: bool) -> bool:  # noqa: FBT001 - as _Key.matches
        dates = self._values(candidate, self.date_name)
        times = self._values(candidate, self.time_name)
        if not dates or not times:
            if not unknown_value_matches:
                return False
            days = [day for date in dates if (day := parse_date(date))]
            return not dates or any(map(self.dates.includes, days))
        shift = self._shift(candidate)
        for date, time in product(dates, times):
            day, clock = parse_date(date), parse_time(time)
            if day and clock and self.start <= day.start + clock.start + shift < self.end:
                return True
        return False

    def _shift(self, candidate: Candidate) -> int:
        stored = candidate.timezone_offset
        stored = self.local_timezone_offset if stored is None else stored
        if stored is None or self.timezone_offset is None:
            return 0
        return (self.timezone_offset - stored) * MINUTE

    @staticmethod
    def _values(candidate: Candidate, name: AttributeName) -> tuple[str, ...]:
        attribute = candidate.attributes.get(name)
        return attribute.values if attribute and attribute.vr in ("DA", "TM") else ()


def combine(
    date_name: AttributeName, time_name: AttributeName, keys: Candidate, options: MatchingOptions
) -> Interval | None:
    """The interval that two keys ask for; None unless both are ranges.

    Raises:
        Malformed: one of them is neither a value nor a range.
    """
    dates = _single_range(keys, date_name, "DA", options)
    times = _single_range(keys, time_name, "TM", options)
    if dates is None or times is None:
        return None
    start = -EVER if dates.first.start == -EVER else dates.first.start + max(times.first.start, 0)
    end = EVER if dates.last.end == EVER else dates.last.start + min(times.last.end, DAY)
    local = options.timezone_offset
    asked = local if keys.timezone_offset is None else keys.timezone_offset
    return Interval(date_name, time_name, dates, start, end, asked, local)


def _single_range(keys: Candidate, name: AttributeName, vr: str, options: MatchingOptions) -> Range | None:
    attribute = keys.attributes.get(name)
    if attribute is None or attribute.vr != vr or is_universal(vr, attribute.values) or len(attribute.values) != 1:
        return None
    (found,) = compile_ranges(vr, attribute.values, options, keys.timezone_offset)
    return None if found.is_single_value else found
