"""Dates, times and date-times as numbers, and the ranges of PS3.4 C.2.2.2.5 over them.

They are matched by meaning, not as strings (PS3.4 C.2.2.2.1.3): `2230` equals `223000`, `1998.08.22` (ACR-NEMA) equals
`19980822`. A value that leaves out components means the first moment it could be; as the end of a range it means the
last: `-12` includes 12:59:59. Second 60 (a leap second) is the last
microsecond of its minute. Inside, everything is microseconds: of the day for TM,
since 0001-01-01 for DA and DT, so that a date and a time add up to a date-time.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from scp.matching.candidate import parse_timezone_offset

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
EVER: Final = 1 << 62
LONGEST_RANGE: Final = 64  # characters; two DT values of 26 each, a hyphen and some spaces

_DATE: Final = re.compile(r"(\d{4})(\d\d)(\d\d)|(\d{4})\.(\d\d)\.(\d\d)", re.ASCII)
_TIME: Final = re.compile(r"(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?", re.ASCII)
_ACR_NEMA_TIME: Final = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?", re.ASCII)
_DATE_TIME: Final = re.compile(r"(\d{4})(?:(\d\d)(?:(\d\d)(\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?)?)?)?", re.ASCII)


class Malformed(ValueError):
    """A key that is neither a value nor a range of its VR; the message holds no value."""


class Moment(NamedTuple):
    """A point in time as precisely as it was written: half open, in microseconds."""

    start: int
    end: int
    timezone_offset: int | None = None  # minutes east of UTC; only DT can have one


class Range(NamedTuple):
    """What a key of DA, TM or DT asks for: moments that start in [first.start, last.end)."""

    first: Moment
    last: Moment
    is_single_value: bool

    def includes(self, moment: Moment) -> bool:
        if self.is_single_value:
            return _shift(moment, self.first) + moment.start == self.first.start
        return (
            self.first.start <= moment.start + _shift(moment, self.first)
            and moment.start + _shift(moment, self.last) < self.last.end
        )


def _shift(moment: Moment, to: Moment) -> int:
    """Microseconds to add to compare `moment` by the clock of `to`; 0 unless both say which clock they mean."""
    if moment.timezone_offset is None or to.timezone_offset is None:
        return 0
    return (to.timezone_offset - moment.timezone_offset) * MINUTE


@lru_cache(maxsize=65536)
def parse_date(text: str) -> Moment | None:
    """A DA value; None if it is none."""
    match = _DATE.fullmatch(text)
    return _days(*(int(part) for part in match.groups() if part)) if match else None


@lru_cache(maxsize=65536)
def parse_time(text: str) -> Moment | None:
    """A TM value; None if it is none."""
    match = _TIME.fullmatch(text) or _ACR_NEMA_TIME.fullmatch(text)
    if not match:
        return None
    hours, minutes, seconds, fraction = match.groups()
    if int(hours) > 23 or int(minutes or 0) > 59 or int(seconds or 0) > 60:
        return None
    start = int(hours) * HOUR + int(minutes or 0) * MINUTE
    if seconds == "60":  # a leap second belongs to its minute
        return Moment(start + MINUTE - 1, start + MINUTE)
    start += int(seconds or 0) * SECOND
    if fraction:
        return Moment(start + int(fraction.ljust(6, "0")), start + int(fraction.ljust(6, "9")) + 1)
    return Moment(start, start + (SECOND if seconds else MINUTE if minutes else HOUR))


def parse_date_time(text: str, timezone_offset: int | None = None) -> Moment | None:
    """A DT value, by the clock of `timezone_offset` unless it carries an offset itself; None if it is none."""
    if text[-5:-4] in ("+", "-"):
        timezone_offset = parse_timezone_offset(text[-5:])
        if timezone_offset is None:
            return None
        text = text[:-5]
    match = _DATE_TIME.fullmatch(text)
    if not match:
        return None
    year, month, day, time = match.groups()
    moment = _days(int(year), *(int(part) for part in (month, day) if part))
    if moment and time:
        time_of_day = parse_time(time)
        moment = time_of_day and Moment(moment.start + time_of_day.start, moment.start + time_of_day.end)
    return moment and moment._replace(timezone_offset=timezone_offset)


def _days(year: int, month: int | None = None, day: int | None = None) -> Moment | None:
    try:
        first = dt.date(year, month or 1, day or 1).toordinal()
        if day:
            last = first + 1
        elif month:
            last = dt.date(year + month // 12, month % 12 + 1, 1).toordinal() if year < 9999 else first + 31
        else:
            last = first + 365 + (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    except ValueError:
        return None
    return Moment(first * DAY, last * DAY)


Parser = Callable[[str, int | None], Moment | None]  # of (text, timezone offset of values without one)
PARSERS: Final[dict[str, Parser]] = {
    "DA": lambda text, _: parse_date(text),
    "TM": lambda text, _: parse_time(text),
    "DT": parse_date_time,
}


def compile_range(vr: str, text: str, timezone_offset: int | None = None) -> Range:
    """What the key `text` asks for. In a key of DT a negative offset can only be part of a range, PS3.4 C.2.2.2.1.3.

    Raises:
        Malformed: it is neither a value nor a range.
    """
    parse = PARSERS[vr]
    if len(text) > LONGEST_RANGE:
        raise Malformed("value too long")
    if "-" not in text:
        moment = parse(text, timezone_offset)
        if moment is None:
            raise Malformed(f"not a {vr} value")
        return Range(moment, moment, is_single_value=True)
    for position, character in enumerate(text):  # the other hyphens are those of negative offsets
        if character == "-":
            found = _range(text[:position], text[position + 1 :], parse, timezone_offset)
            if found:
                return found
    raise Malformed(f"not a range of {vr}")


def _range(first: str, last: str, parse: Parser, timezone_offset: int | None) -> Range | None:
    lower = parse(first.rstrip(), timezone_offset) if first else Moment(-EVER, -EVER)
    upper = parse(last.lstrip(), timezone_offset) if last else Moment(EVER, EVER)
    if lower is None or upper is None or not (first or last):
        return None
    return Range(lower, upper, is_single_value=False)
