"""Property: the matcher decides as the plain reference model does, and answers exactly what was asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from scp.matching import MatchingOptions, compile_identifier
from scp.matching.wild_card import compile_wild_card
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal
from tests.fakes.data_sets import data_set, received, with_bytes
from tests.unit.scp.matching import reference

DATES = ["20200101", "20200102", "20200131", "20210101", "19991231"]
TIMES = ["00", "10", "1030", "103000", "103000.5", "1031", "235959", "22"]


def _ranges(values: list[str]) -> st.SearchStrategy[str]:
    value = st.sampled_from(values)
    both = st.tuples(value, value).map("-".join)
    return value | both | value.map(lambda v: f"-{v}") | value.map(lambda v: f"{v}-")


def _one(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.just([]) | strategy.map(lambda value: [value])


def _some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, max_size=3)


TEXT = st.text("AB", min_size=1, max_size=4)
PATTERN = st.text("AB*?", min_size=1, max_size=5)
NAME = st.builds("^".join, st.lists(st.text("ABab", min_size=1, max_size=2), min_size=1, max_size=2))
NAME_PATTERN = st.text("ABab?", min_size=1, max_size=3) | st.just("*") | NAME | NAME.map(lambda name: f"{name[:2]}*")
UID = st.sampled_from(["1.2", "1.2.3", "1.2.4", "1.22"])

STORED_STEP = st.fixed_dictionaries(
    {},
    optional={
        "Modality": _one(TEXT),
        "ScheduledStationAETitle": _some(TEXT),
        "ScheduledProcedureStepStartDate": _one(st.sampled_from(DATES)),
        "ScheduledProcedureStepStartTime": _one(st.sampled_from(TIMES)),
    },
)
STEP_KEY = st.fixed_dictionaries(
    {},
    optional={
        "Modality": _one(PATTERN),
        "ScheduledStationAETitle": _one(PATTERN),
        "ScheduledProcedureStepStartDate": _one(_ranges(DATES)),
        "ScheduledProcedureStepStartTime": _one(_ranges(TIMES)),
    },
)
STORED = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": _one(TEXT),
        "PatientName": _one(NAME),
        "StudyInstanceUID": _one(UID),
        "StudyDate": _one(st.sampled_from(DATES)),
        "StudyTime": _one(st.sampled_from(TIMES)),
        "ModalitiesInStudy": _some(TEXT),
        "ScheduledProcedureStepSequence": st.lists(STORED_STEP, max_size=2),
    },
)
KEYS = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": _one(PATTERN),
        "PatientName": _one(NAME_PATTERN),
        "StudyInstanceUID": _some(UID),
        "StudyDate": _one(_ranges(DATES)),
        "StudyTime": _one(_ranges(TIMES)),
        "ModalitiesInStudy": _some(PATTERN),
        "ScheduledProcedureStepSequence": _one(STEP_KEY),
    },
)
COMBINED = (("StudyDate", "StudyTime"), ((0x00080020, 0x00080030),))

# however busy the machine is
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about wild cards in CS and the like


def _data_set(plain: reference.Plain) -> Dataset:
    def build(plain: reference.Plain) -> Dataset:
        built = Dataset()
        for keyword, values in plain.items():
            items = [build(value) for value in values if isinstance(value, dict)]
            setattr(built, keyword, items if keyword.endswith("Sequence") else values or None)
        return built

    return received(build(plain))


@unhurried
@given(KEYS, STORED, st.booleans(), st.booleans())
def test_decides_like_the_reference(
    keys: reference.Plain, stored: reference.Plain, unknown_matches: bool, is_combined: bool
) -> None:
    names, tags = COMBINED
    options = MatchingOptions(unknown_value_matches=unknown_matches, combined=tags if is_combined else ())
    expected = reference.matches(keys, stored, unknown_matches=unknown_matches, combined=names if is_combined else None)
    assert compile_identifier(_data_set(keys), options).matches(_data_set(stored)) is expected


@unhurried
@given(KEYS, STORED)
def test_answers_exactly_the_requested_attributes(keys: reference.Plain, stored: reference.Plain) -> None:
    encoded_keys, encoded = _data_set(keys), _data_set(stored)
    answer = compile_identifier(encoded_keys).answer(encoded)
    assert [element.keyword for element in answer] == sorted(keys, key=lambda keyword: encoded_keys[keyword].tag)
    assert received(answer) == answer
    for keyword, values in stored.items():
        if keyword in keys and keyword != "ScheduledProcedureStepSequence":
            assert answer[keyword].value == encoded[keyword].value
            assert len(values) == answer[keyword].VM


@unhurried
@given(KEYS, STORED)
def test_answers_the_matching_items_with_what_was_asked_of_them(keys: reference.Plain, stored: reference.Plain) -> None:
    asked = keys.setdefault("ScheduledProcedureStepSequence", [])
    steps = stored.get("ScheduledProcedureStepSequence", [])
    answer = compile_identifier(_data_set(keys)).answer(_data_set(stored)).ScheduledProcedureStepSequence
    if not asked or not asked[0]:
        assert len(answer) == len(steps)
        return
    chosen = [step for step in steps if reference.matches(asked[0], step, unknown_matches=True)]
    assert len(answer) == len(chosen)
    for item in answer:
        assert {element.keyword for element in item} == set(asked[0])


@unhurried
@given(st.text("AB*?", max_size=10).filter(lambda p: "*" in p or "?" in p), st.text("ABC", max_size=12))
def test_wild_cards_match_like_the_reference(pattern: str, text: str) -> None:
    assert compile_wild_card(pattern)(text) is reference.wild(pattern, text)


@unhurried
@given(st.binary(max_size=40), st.sampled_from(["PatientName", "StudyDate", "StudyTime", "AcquisitionDateTime"]))
def test_no_bytes_make_matching_raise(value: bytes, keyword: str) -> None:
    """A stored value may be anything; a key is refused or matched."""
    stored = with_bytes(Dataset(), keyword, value)
    matcher = compile_identifier(data_set({keyword: "10-" if keyword == "StudyTime" else "20200101"}))
    matcher.matches(stored)
    received(matcher.answer(stored))
    try:
        compile_identifier(with_bytes(Dataset(), keyword, value)).matches(stored)
    except Refusal as refused:
        assert refused.status == DATA_SET_DOES_NOT_MATCH  # noqa: PT017 - both ways are allowed
