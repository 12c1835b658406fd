"""Matching of one attribute other than a sequence: the kind of matching follows from the VR (PS3.4 C.2.2.2).

A lone `*` is universal matching in every VR of text: where wild cards have no meaning it cannot mean anything else, and
modalities send it in dates and UIDs too. Anything else that is no value of its VR is malformed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final, TypeAlias

from scp.matching.candidate import kind_of
from scp.matching.options import MatchingOptions
from scp.matching.person_name import compile_person_name
from scp.matching.temporal import PARSERS, Malformed, Range, compile_range
from scp.matching.wild_card import compile_wild_card, has_wild_card

Test: TypeAlias = Callable[[tuple[Any, ...], int | None], bool]  # of (stored values, their timezone offset)

WILD_CARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # PS3.4 C.2.2.2.4
MAXIMUM_KEY_LENGTH: Final = 1024  # characters of one value
MAXIMUM_KEY_VALUES: Final = 256
MAXIMUM_KEY_UIDS: Final = 10_000  # a list of UID may be long (PS3.4 C.2.2.2.2)
EMPTY_VALUE: Final = '""'  # PS3.4 C.2.2.2.7

_UID: Final = re.compile(r"[0-9.]{1,64}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


def is_universal(vr: str, values: tuple[Any, ...]) -> bool:
    """Whether the key asks for any value: it is empty (PS3.4 C.2.2.2.3) or nothing but `*` (C.2.2.2.4)."""
    return not values or (kind_of(vr) == "text" and len(values) == 1 and not values[0].strip("*"))


def compile_attribute(vr: str, values: tuple[Any, ...], options: MatchingOptions, timezone_offset: int | None) -> Test:
    """The test for a key that is not universal. `timezone_offset` is that of the Identifier.

    Raises:
        Malformed: the key is no value of its VR, or absurdly long.
    """
    if kind_of(vr) != "text":
        return _any_of(frozenset(values), lambda value: value)
    keys = _bounded(vr, values)
    if vr == "UI":
        if not all(_UID.fullmatch(key) for key in keys):
            raise Malformed("not a UID")
        return _any_of(frozenset(keys), lambda value: value)
    tests = [_compile_value(vr, key, options, timezone_offset) for key in keys]
    if len(tests) == 1:
        return tests[0]
    combine = all if options.all_values_required else any
    return lambda stored, offset: combine(test(stored, offset) for test in tests)


def compile_ranges(
    vr: str, values: tuple[str, ...], options: MatchingOptions, timezone_offset: int | None
) -> list[Range]:
    """The ranges or single values that a key of DA, TM or DT asks for.

    Raises:
        Malformed: one of them is neither.
    """
    offset = options.timezone_offset if timezone_offset is None else timezone_offset
    return [compile_range(vr, key, offset) for key in _bounded(vr, values)]


def _bounded(vr: str, values: tuple[str, ...]) -> list[str]:
    keys = [value for value in values if value]
    if len(keys) > (MAXIMUM_KEY_UIDS if vr == "UI" else MAXIMUM_KEY_VALUES):
        raise Malformed("too many values")
    if any(len(key) > MAXIMUM_KEY_LENGTH for key in keys):
        raise Malformed("value too long")
    return keys


def _any_of(wanted: Iterable[Any], normalize: Callable[[Any], Any]) -> Test:
    wanted = frozenset(wanted)
    return lambda stored, _: any(normalize(value) in wanted for value in stored)


def _compile_value(vr: str, key: str, options: MatchingOptions, timezone_offset: int | None) -> Test:
    if vr in PARSERS:
        return _compile_temporal(vr, key, options, timezone_offset)
    if vr == "PN":
        matches = compile_person_name(key, options)
    elif vr in WILD_CARD_VRS and has_wild_card(key):
        matches = compile_wild_card(key)
    elif vr in ("IS", "DS"):
        if not _NUMBER.fullmatch(key):
            raise Malformed("not a number")
        return _any_of((_number(key),), _number)
    else:
        return lambda stored, _: key in stored
    return lambda stored, _: any(matches(value) for value in stored)


def _compile_temporal(vr: str, key: str, options: MatchingOptions, timezone_offset: int | None) -> Test:
    (wanted,) = compile_ranges(vr, (key,), options, timezone_offset)
    parse = PARSERS[vr]
    local = options.timezone_offset

    def test(stored: tuple[Any, ...], offset: int | None) -> bool:
        moments = (parse(value, local if offset is None else offset) for value in stored)
        return any(moment is not None and wanted.includes(moment) for moment in moments)

    return test


def _number(text: str) -> Decimal | str:
    """Numbers compare as numbers: `07` is 7 (PS3.5 6.2, IS and DS)."""
    return Decimal(text) if len(text) <= 16 and _NUMBER.fullmatch(text) else text
