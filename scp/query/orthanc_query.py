"""The part of an Identifier that Orthanc's index may decide: a query for `/tools/find` that loses no match.

Orthanc finds the candidates, `scp.matching` decides. So a key is handed on only where Orthanc's matching is at least as
wide as the Standard's, and is widened where it is not; whatever is left out costs time, not answers:

* Orthanc compares a single value with the whole stored text: only attributes of multiplicity 1.
* Its index keeps upper-case ASCII only: other characters become `*`, and so does `?`, which would count them.
* It knows nothing of component groups and trailing `^` of names: names become `*name*`.
* Dates are compared as text, and may be stored in the form of ACR-NEMA, `1993.08.22`: a few days are asked for one by
  one, in both forms, which its index finds sooner than a range; longer ranges take a second query.
* Wild cards in other VRs, times, numbers and sequences are errors or compared as text: left out.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydicom.datadict import dictionary_VM

from scp.matching import Attribute
from scp.query.main_dicom_tags import name_of

MODALITIES_IN_STUDY: Final = 0x00080061

_PATTERN_VRS: Final = frozenset({"CS", "LO", "SH", "PN"})
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9^ .,:;()/+-]+")
_UNSAFE_EXACT: Final = re.compile(r"[^A-Za-z0-9^ .,:;()/+_%-]+")  # in both the key and the index they become blanks
_UID: Final = re.compile(r"[0-9.]+")
_DATE: Final = re.compile(r"\d{8}")
_DATE_RANGE: Final = re.compile(r"(\d{8})?-(\d{8})?")
_DAYS: Final = 31  # at most, that are asked for one by one
_MODALITY: Final = re.compile(r"[A-Z0-9_]+")


def orthanc_queries(keys: Mapping[int, Attribute], *, other_clock: bool = False) -> list[dict[str, str]]:
    """Queries whose answers together hold every match; `keys` are those that the index holds at the level asked.

    `other_clock`: the dates asked for are by another clock than those of the index, so that both may be a day apart.
    """
    query: dict[str, str] = {}
    dotted: dict[str, str] = {}
    for tag, (vr, values) in keys.items():
        value = _value(tag, vr, values)
        if value is not None and vr == "DA" and other_clock:
            value = _wider(value)
        if value is not None and vr == "DA" and "-" in value:
            value = _each_day(value) or value
        if value is not None:
            query[name_of(tag)] = value
            if vr == "DA" and "-" in value:
                dotted[name_of(tag)] = _dotted_range(value)
    return [query, {**query, **dotted}] if dotted else [query]


def _value(tag: int, vr: str, values: tuple[str, ...]) -> str | None:
    """What to ask Orthanc for; None = nothing."""
    if not values or not all(isinstance(value, str) for value in values):
        return None
    if vr == "UI":
        return "\\".join(values) if _all(_UID, values) else None
    if tag == MODALITIES_IN_STUDY:
        return "\\".join(values) if _all(_MODALITY, values) else None
    if len(values) != 1 or dictionary_VM(tag) != "1":
        return None
    if vr == "DA":
        return _date(values[0])
    return _text(vr, values[0]) if vr in _PATTERN_VRS else None


def _date(value: str) -> str | None:
    if _DATE.fullmatch(value):
        return f"{value}\\{_dotted(value)}"
    return value if len(value) > 1 and _DATE_RANGE.fullmatch(value) else None


def _wider(dates: str) -> str | None:
    """A range from the day before to the day after; None: there are no such days."""
    first, last = dates.split("-") if "-" in dates else (dates[:8], dates[:8])  # or one date in both its forms
    try:
        return f"{_days_later(first, -1)}-{_days_later(last, 1)}"
    except (ValueError, OverflowError):
        return None


def _each_day(dates: str) -> str | None:
    """The days of a range, each in both forms; None: they are too many, or none, or an end is no day."""
    first, last = dates.split("-")
    days = [first]
    try:
        while days[-1] < last and len(days) < _DAYS:
            days.append(_days_later(days[-1], 1))
    except (ValueError, OverflowError):
        return None
    return "\\".join(form for day in days for form in (day, _dotted(day))) if days[-1] == last else None


def _days_later(date: str, days: int) -> str:
    if not date:
        return ""
    moved = dt.datetime.strptime(date, "%Y%m%d").date() + dt.timedelta(days=days)  # noqa: DTZ007 - a date
    return f"{moved.year:04}{moved:%m%d}"


def _text(vr: str, value: str) -> str | None:
    if vr == "PN":
        value = f"*{value.rstrip('^=* ')}*"
    elif not ("*" in value or "?" in value or _UNSAFE_EXACT.search(value)):
        return value
    pattern = re.sub(r"\*+", "*", _UNSAFE.sub("*", value))
    return pattern if pattern.strip("* ") else None


def _dotted_range(value: str) -> str:
    return "-".join(_dotted(end) if end else "" for end in value.split("-"))


def _dotted(date: str) -> str:
    return f"{date[:4]}.{date[4:6]}.{date[6:]}"


def _all(pattern: re.Pattern[str], values: Iterable[str]) -> bool:
    return all(pattern.fullmatch(value) for value in values)
