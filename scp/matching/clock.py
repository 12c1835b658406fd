"""Timezone query adjustment (PS3.4 C.5.1.1, byte 4): a candidate seen by the clock that the requester named.

Once it is negotiated, TimezoneOffsetFromUTC of the request says by which clock its dates and times are meant, "and the
definition of midnight" (PS3.4 C.2.2.2.5.2), and by which those of the answers are to be. So a candidate is converted
before it is matched and answered from: both see the same values, and no rule of matching changes.

Its own clock is its TimezoneOffsetFromUTC, otherwise that of this machine, summer time included. A date is converted
together with the time that belongs to it, for only both are a moment; a date without one stays. PatientBirthDate stays:
nobody has another birthday abroad.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from scp.matching.candidate import (
    TIMEZONE_OFFSET_FROM_UTC,
    Attribute,
    AttributeName,
    Candidate,
    parse_timezone_offset,
)
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal

Attributes = dict[AttributeName, Attribute]

_DATE: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)", re.ASCII)
_TIME: Final = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d(?:\.\d{1,6})?))?)?", re.ASCII)
_DATE_TIME: Final = re.compile(r"(\d{8})(\d{2}\d*(?:\.\d{1,6})?)", re.ASCII)  # without an offset of its own


def _pairs() -> dict[int, int]:
    """Tag of each date -> tag of the time that belongs to it, by their keywords."""
    found = {}
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr == "DA" and keyword.endswith("Date") and keyword != "PatientBirthDate":
            time = tag_for_keyword(f"{keyword[:-4]}Time")
            if time is not None:
                found[tag] = time
    return found


_PAIRS: Final = _pairs()


@dataclass(frozen=True)
class Clock:
    """The clock of a requester, in minutes east of UTC."""

    offset: int

    @classmethod
    def of(cls, keys: Candidate, *, negotiated: bool) -> Clock | None:
        """The clock that an Identifier names; None: values are compared and answered as they are.

        Raises:
            Refusal: 0xA900, TimezoneOffsetFromUTC is no offset.
        """
        named = keys.attributes.get(TIMEZONE_OFFSET_FROM_UTC)
        if not negotiated or named is None or not named.values:
            return None
        if keys.timezone_offset is None:
            raise Refusal(DATA_SET_DOES_NOT_MATCH, "TimezoneOffsetFromUTC: not an offset")
        return cls(keys.timezone_offset)

    def adjusted(self, candidate: Candidate) -> Candidate:
        """The candidate by this clock, items of sequences included. Never raises."""
        adjusted = self._adjusted(candidate, candidate.timezone_offset)
        return Candidate({**adjusted.attributes, TIMEZONE_OFFSET_FROM_UTC: self._named()}, self.offset)

    def _named(self) -> Attribute:
        hours, minutes = divmod(abs(self.offset), 60)
        return Attribute("SH", (f"{'-' if self.offset < 0 else '+'}{hours:02}{minutes:02}",))

    def _adjusted(self, candidate: Candidate, inherited: int | None) -> Candidate:
        stored = _own_offset(candidate, inherited)
        attributes = dict(candidate.attributes)
        if TIMEZONE_OFFSET_FROM_UTC in attributes:
            attributes[TIMEZONE_OFFSET_FROM_UTC] = self._named()
        for name, attribute in candidate.attributes.items():
            if attribute.vr == "SQ":
                items = tuple(self._adjusted(item, stored) for item in attribute.values)
                attributes[name] = Attribute("SQ", items)
            elif attribute.vr == "DT":
                attributes[name] = Attribute("DT", tuple(self._date_time(value, stored) for value in attribute.values))
        for date, time in _PAIRS.items():
            if date in attributes or time in attributes:
                self._adjust_pair(attributes, date, time, stored)
        return Candidate(attributes, self.offset)

    def _adjust_pair(self, attributes: Attributes, date: int, time: int, stored: int | None) -> None:
        dates, times = _values(attributes, date, "DA"), _values(attributes, time, "TM")
        if not times:
            return
        if not dates and stored is not None:  # the time of some day
            moved = [self._moment("20000101", value, stored)[1] for value in times]
            attributes[time] = Attribute("TM", tuple(moved))
        elif len(dates) == len(times):
            pairs = [self._moment(day, value, stored) for day, value in zip(dates, times, strict=True)]
            attributes[date] = Attribute("DA", tuple(day for day, _ in pairs))
            attributes[time] = Attribute("TM", tuple(value for _, value in pairs))

    def _date_time(self, value: str, stored: int | None) -> str:
        match = _DATE_TIME.fullmatch(value)
        return "".join(self._moment(match[1], match[2], stored)) if match else value

    def _moment(self, date: str, time: str, stored: int | None) -> tuple[str, str]:
        """Date and time by this clock, as precise as they were; as they are if they are no date and time."""
        day_match, time_match = _DATE.fullmatch(date), _TIME.fullmatch(time)
        if not day_match or not time_match:
            return date, time
        year, month, day = map(int, day_match.groups())
        hours, minutes, seconds = time_match.groups()
        try:
            moment = dt.datetime(year, month, day, int(hours), int(minutes or 0))  # noqa: DTZ001 - by the clock of `stored`
            shift = self.offset - (_local_offset(moment) if stored is None else stored)
            moment += dt.timedelta(minutes=shift)
        except (ValueError, OverflowError, OSError):
            return date, time
        text = f"{moment:%H}" if minutes is None and shift % 60 == 0 else f"{moment:%H%M}"
        return f"{moment.year:04}{moment:%m%d}", text + (seconds or "")


def _own_offset(candidate: Candidate, inherited: int | None) -> int | None:
    """That of the data set itself, which Orthanc's index may hold as an attribute like any other."""
    named = candidate.attributes.get(TIMEZONE_OFFSET_FROM_UTC)
    own = parse_timezone_offset(named.values[0]) if named and named.values else candidate.timezone_offset
    return inherited if own is None else own


def _local_offset(moment: dt.datetime) -> int:
    """Minutes east of UTC by the clock of this machine at that time."""
    offset = moment.astimezone().utcoffset()
    return int((offset or dt.timedelta()).total_seconds()) // 60


def _values(attributes: Mapping[AttributeName, Attribute], tag: int, vr: str) -> tuple[Any, ...]:
    attribute = attributes.get(tag)
    return attribute.values if attribute is not None and attribute.vr == vr else ()
