"""An Identifier compiled for matching: PS3.4 C.2.2.2 over all its keys, those in sequences included (C.2.2.2.6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from scp.matching.answer import full_dataset
from scp.matching.attribute import EMPTY_VALUE, Test, compile_attribute, is_universal
from scp.matching.candidate import (
    TIMEZONE_OFFSET_FROM_UTC,
    Attribute,
    AttributeName,
    Candidate,
    Undecodable,
    kind_of,
)
from scp.matching.interval import Interval, combine
from scp.matching.options import MatchingOptions, SupportedAttributes
from scp.matching.temporal import Malformed
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal

QUERY_RETRIEVE_LEVEL: Final = 0x00080052
NEVER_MATCHED: Final = frozenset({TIMEZONE_OFFSET_FROM_UTC, QUERY_RETRIEVE_LEVEL})
MAXIMUM_KEYS: Final = 512  # with those inside of sequences
COSTS: Final = {"DA": 1, "TM": 1, "DT": 2, "PN": 3, "SQ": 4}  # of any other VR: 0
BASELINE: Final = MatchingOptions()


@dataclass(frozen=True, slots=True)
class _Key:
    """One requested attribute."""

    name: AttributeName
    vr: str
    kind: str  # Python type of its values, see kind_of
    is_supported: bool  # for existence, also where no candidate holds it
    test: Test | None = None  # None: universal matching
    items: Matcher | None = None  # of a sequence: what is asked of its items; None: everything
    wants_empty: bool = False  # PS3.4 C.2.2.2.7

    def matches(self, candidate: Candidate, unknown_value_matches: bool) -> bool:  # noqa: FBT001 - passed by position: the innermost loop
        attribute = candidate.attributes.get(self.name)
        if attribute is None or not attribute.values:
            is_ignored = attribute is None and not self.is_supported  # PS3.4 C.2.2.1.3, K.2.2.1.1.2
            return unknown_value_matches or self.wants_empty or is_ignored
        if attribute.vr != self.vr and kind_of(attribute.vr) != self.kind:
            return False
        return self.test is None or self.test(attribute.values, candidate.timezone_offset)

    def chosen(self, attribute: Attribute) -> list[Candidate]:
        """The items of a stored sequence that match this key's item."""
        if self.items is None or attribute.vr != "SQ":
            return []
        return [item for item in attribute.values if self.items.matches(item)]


class Matcher:
    """Decides which candidates match an Identifier, and answers from them. Made by `compile_identifier`."""

    def __init__(self, keys: tuple[_Key, ...], intervals: tuple[Interval, ...], options: MatchingOptions) -> None:
        self._keys = keys
        self._tested = sorted((key for key in keys if key.test), key=lambda key: COSTS.get(key.vr, 0))
        self._intervals = intervals
        self._unknown_value_matches = options.unknown_value_matches
        self._default_encoding = options.default_encoding
        self._private_vrs = options.private_vrs

    @property
    def is_universal(self) -> bool:
        """Whether every candidate matches."""
        return not self._tested and not self._intervals

    def matches(self, candidate: Candidate | Dataset) -> bool:
        """Whether all keys match. Never raises for what a `Candidate` holds."""
        candidate = self._candidate(candidate)
        unknown = self._unknown_value_matches
        for key in self._tested:
            if not key.matches(candidate, unknown):
                return False
        return all(interval.matches(candidate, unknown) for interval in self._intervals)

    def answer(self, candidate: Candidate | Dataset) -> Dataset:
        """What was `selected`, as a data set."""
        return full_dataset(self.selected(candidate))

    def selected(self, candidate: Candidate | Dataset) -> Candidate:
        """The requested attributes as the candidate has them, zero length where it has no value.

        Of a sequence: the items that match, with the attributes requested of them; all of it if nothing particular was
        requested. Left out: attributes that are neither held nor supported, and what the package's docstring lists.
        """
        candidate = self._candidate(candidate)
        selected: dict[AttributeName, Attribute] = {}
        for key in self._keys:
            attribute = candidate.attributes.get(key.name)
            if attribute is None:
                if not key.is_supported:
                    continue
                attribute = Attribute(key.vr, ())
            elif key.items and attribute.vr == "SQ":
                attribute = Attribute("SQ", tuple(map(key.items.selected, key.chosen(attribute))))
            selected[key.name] = attribute
        return Candidate(selected, candidate.timezone_offset)

    def supports(self, candidate: Candidate) -> bool:
        """Whether the answer holds every requested attribute; if not, its status is FF01 (PS3.4 Table C.4-1)."""
        for key in self._keys:
            attribute = candidate.attributes.get(key.name)
            if attribute is None:
                if not key.is_supported:
                    return False
            elif key.items and not all(map(key.items.supports, key.chosen(attribute))):
                return False
        return True

    def _candidate(self, candidate: Candidate | Dataset) -> Candidate:
        if isinstance(candidate, Candidate):
            return candidate
        return Candidate.of(candidate, self._default_encoding, self._private_vrs)


def compile_identifier(keys: Dataset, options: MatchingOptions = BASELINE) -> Matcher:
    """Compile the keys of a request once, for any number of candidates.

    Raises:
        Refusal: 0xA900, a key is malformed or the Identifier is absurdly large.
    """
    try:
        decoded = Candidate.of(keys, options.default_encoding, options.private_vrs)
    except Undecodable as error:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, str(error)) from error
    if _count(decoded) > MAXIMUM_KEYS:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, "too many keys")
    return _compile(decoded, options, options.supported)


def _count(candidate: Candidate) -> int:
    attributes = candidate.attributes.values()
    return sum(1 + sum(map(_count, attribute.values)) if attribute.vr == "SQ" else 1 for attribute in attributes)


def _compile(keys: Candidate, options: MatchingOptions, supported: SupportedAttributes | None) -> Matcher:
    intervals: list[Interval] = []
    for date, time in options.combined:
        with _refusing(date):
            intervals += filter(None, [combine(date, time, keys, options)])
    combined = {name for interval in intervals for name in (interval.date_name, interval.time_name)}
    compiled = []
    for name, attribute in keys.attributes.items():
        if name in NEVER_MATCHED:
            continue
        with _refusing(name):
            compiled.append(_compile_key(name, attribute, keys.timezone_offset, options, supported))
            if name in combined:
                compiled[-1] = replace(compiled[-1], test=None)  # the interval tests it
    return Matcher(tuple(compiled), tuple(intervals), options)


def _compile_key(
    name: AttributeName,
    attribute: Attribute,
    timezone_offset: int | None,
    options: MatchingOptions,
    supported: SupportedAttributes | None,
) -> _Key:
    vr, values = attribute
    is_supported = supported is None or name in supported
    key = partial(_Key, name, vr, kind_of(vr), is_supported)
    if vr == "SQ":
        items = _compile_items(values, options, supported.get(name) if supported and isinstance(name, int) else None)
        return key(test=_test_of_items(items), items=items)
    if any("\ufffd" in value for value in values if isinstance(value, str)):
        raise Malformed("not in its character set")
    if options.empty_value_matching and values == (EMPTY_VALUE,):
        return key(test=lambda _stored, _offset: False, wants_empty=True)
    if is_universal(vr, values):
        return key()
    return key(test=compile_attribute(vr, values, options, timezone_offset))


def _compile_items(
    items: tuple[Candidate, ...], options: MatchingOptions, supported: SupportedAttributes | None
) -> Matcher | None:
    """None: universal matching, that is no item or one without keys (PS3.4 C.2.2.2.6)."""
    if len(items) > 1:
        raise Malformed("more than one item")
    return _compile(items[0], options, supported or None) if items and items[0].attributes else None


def _test_of_items(items: Matcher | None) -> Test | None:
    if items is None or items.is_universal:
        return None
    return lambda stored, _offset: any(map(items.matches, stored))


@contextmanager
def _refusing(name: AttributeName) -> Iterator[None]:
    """Turn a malformed key into the refusal that names the attribute, and never its value."""
    try:
        yield
    except Malformed as error:
        label = keyword_for_tag(name) if isinstance(name, int) else "private attribute"
        raise Refusal(DATA_SET_DOES_NOT_MATCH, f"{label or f'{name:08X}'}: {error}") from error
