"""The rules of PS3.4 C.2.2.2 written down as plainly as possible, however slow: what the real matcher is held against.

A data set is a dict of keyword -> list of strings, or of items for a sequence. Keys look the same.
"""

from __future__ import annotations

from typing import Any

from pydicom.datadict import dictionary_VR

Plain = dict[str, list[Any]]
WILD = {"AE", "CS", "LO", "PN", "SH"}


def matches(keys: Plain, stored: Plain, *, unknown_matches: bool, combined: tuple[str, str] | None = None) -> bool:
    if combined and all(is_range(keys.get(keyword, [])) for keyword in combined):
        rest = {keyword: key for keyword, key in keys.items() if keyword not in combined}
        return matches(rest, stored, unknown_matches=unknown_matches) and in_interval(
            [keys[keyword][0] for keyword in combined],
            [stored.get(keyword, []) for keyword in combined],
            unknown_matches=unknown_matches,
        )
    return all(
        one_matches(keyword, key, stored.get(keyword, []), unknown_matches=unknown_matches)
        for keyword, key in keys.items()
    )


def one_matches(keyword: str, key: list[Any], stored: list[Any], *, unknown_matches: bool) -> bool:
    vr = dictionary_VR(keyword)
    if not key or key == [{}] or (len(key) == 1 and isinstance(key[0], str) and set(key[0]) == {"*"}):
        return True
    if vr == "SQ":
        (item,) = key
        if all(one_matches(k, v, [], unknown_matches=False) for k, v in item.items()):
            return True  # nothing but universal keys
        if not stored:
            return unknown_matches
        return any(matches(item, candidate, unknown_matches=unknown_matches) for candidate in stored)
    if not stored:
        return unknown_matches
    return any(value_matches(vr, wanted, value) for wanted in key for value in stored)


def value_matches(vr: str, key: str, value: str) -> bool:
    if vr == "PN":
        key, value = key.lower(), value.lower()
    if vr in WILD:
        return wild(key, value)
    if vr in ("DA", "TM"):
        first, last = key.split("-") if "-" in key else (key, None)
        low, _ = bounds(vr, value)
        if last is None:
            return low == bounds(vr, first)[0]
        return (not first or bounds(vr, first)[0] <= low) and (not last or low <= bounds(vr, last)[1])
    return key == value


def wild(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(wild(pattern[1:], text[skip:]) for skip in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and wild(pattern[1:], text[1:])


def bounds(vr: str, value: str) -> tuple[str, str]:
    """The first and the last moment that a value can mean, as strings that sort."""
    if vr == "DA":
        return value, value
    digits = value.replace(".", "")
    return digits.ljust(12, "0"), digits + "235959999999"[len(digits) :]


def is_range(key: list[str]) -> bool:
    return len(key) == 1 and "-" in key[0]


def in_interval(keys: list[str], stored: list[list[str]], *, unknown_matches: bool) -> bool:
    dates, times = stored
    (first_date, last_date), (first_time, last_time) = (key.split("-") for key in keys)
    if not dates or not times:
        return unknown_matches and (not dates or any(value_matches("DA", keys[0], date) for date in dates))
    moments = [date + bounds("TM", time)[0] for date in dates for time in times]
    start = first_date + bounds("TM", first_time or "00")[0] if first_date else ""
    end = last_date + bounds("TM", last_time or "23")[1] if last_date else "9"
    return any(start <= moment <= end for moment in moments)
