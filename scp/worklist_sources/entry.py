"""A data set of a worklist source made into entries: complete, and one Scheduled Procedure Step each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
    shared = _checked(decoded.attributes, OTHERS)
    return tuple(_with_step(shared, step, decoded.timezone_offset) for step in steps.values)


def _with_step(shared: Attributes, step: Candidate, timezone_offset: int | None) -> Candidate:
    only_step = Candidate(_checked(step.attributes, SCHEDULED_PROCEDURE_STEP), step.timezone_offset)
    sequence = Attribute("SQ", (only_step,))
    return Candidate({**shared, SCHEDULED_PROCEDURE_STEP_SEQUENCE: sequence}, timezone_offset)


def _checked(attributes: Attributes, rows: tuple[Row, ...]) -> Attributes:
    """`attributes` without empty ones of type 1 that are optional: an empty one may not be answered."""
    dropped: set[AttributeName] = set()
    for keyword, matching_key, return_key in rows:
        tag = tag_of(keyword)
        held = attributes.get(tag, EMPTY)
        if return_key == "1" and not held.values:
            if matching_key == "R":
                raise IncompleteEntry(f"{keyword} is missing or empty")
            dropped.add(tag)
    return {name: held for name, held in attributes.items() if name not in dropped}


EMPTY: Final = Attribute("UN", ())
