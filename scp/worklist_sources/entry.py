"""A data set of a worklist source made into entries: complete, and one Scheduled Procedure Step each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from scp.matching import Attribute, Candidate
from scp.matching.candidate import AttributeName
from scp.worklist_sources.table_k6_1 import (
    OTHERS,
    SCHEDULED_PROCEDURE_STEP,
    SCHEDULED_PROCEDURE_STEP_SEQUENCE,
    Row,
    tag_of,
)

Attributes = Mapping[AttributeName, Attribute]


class _NeverEmpty(NamedTuple):
    """An attribute of type 1."""

    tag: int
    keyword: str
    is_required: bool  # an entry without it is none


class IncompleteEntry(Exception):
    """An attribute that may not be empty is; the message names it."""


def entries_of(decoded: Candidate) -> tuple[Candidate, ...]:
    """One entry for each item of the ScheduledProcedureStepSequence (PS3.4 K.6.1.2.1).

    Raises:
        IncompleteEntry: a required key of type 1 has no value (Table K.6-1).
    """
    steps = decoded.attributes.get(SCHEDULED_PROCEDURE_STEP_SEQUENCE)
    if steps is None or steps.vr != "SQ" or not steps.values:
        raise IncompleteEntry("ScheduledProcedureStepSequence is missing or empty")
    shared = _checked(decoded.attributes, _OF_OTHERS)
    return tuple(_with_step(shared, step, decoded.timezone_offset) for step in steps.values)


def _with_step(shared: Attributes, step: Candidate, timezone_offset: int | None) -> Candidate:
    only_step = Candidate(_checked(step.attributes, _OF_STEP), step.timezone_offset)
    sequence = Attribute("SQ", (only_step,))
    return Candidate({**shared, SCHEDULED_PROCEDURE_STEP_SEQUENCE: sequence}, timezone_offset)


def _checked(attributes: Attributes, never_empty: tuple[_NeverEmpty, ...]) -> Attributes:
    """`attributes` without empty ones of type 1 that are optional: an empty one may not be answered."""
    dropped = []
    for tag, keyword, is_required in never_empty:
        held = attributes.get(tag)
        if held is None or not held.values:
            if is_required:
                raise IncompleteEntry(f"{keyword} is missing or empty")
            dropped.append(tag)
    if any(tag in attributes for tag in dropped):
        return {name: held for name, held in attributes.items() if name not in dropped}
    return attributes


def _never_empty(rows: tuple[Row, ...]) -> tuple[_NeverEmpty, ...]:
    return tuple(
        _NeverEmpty(tag_of(row.keyword), row.keyword, row.matching_key == "R") for row in rows if row.return_key == "1"
    )


_OF_STEP: Final = _never_empty(SCHEDULED_PROCEDURE_STEP)
_OF_OTHERS: Final = _never_empty(OTHERS)
