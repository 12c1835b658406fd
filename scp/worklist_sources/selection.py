"""What a worklist query is certain not to want, in terms that an index can look up.

A selection is a promise about matching: an entry outside of it cannot match. One inside of it may still not match; the
matcher decides.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Final

from scp.matching import Attribute, Candidate
from scp.matching.attribute import is_universal
from scp.matching.temporal import DAY, EVER, Malformed, compile_range
from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, tag_of

FIRST_DAY: Final = 0
LAST_DAY: Final = 1 << 32
_NO_LITERALS: Final = re.compile(r"[*?^= ]+")
_EMPTY: Final = Attribute("UN", ())


@dataclass(frozen=True)
class Selection:
    """Bounds on what can match; each default bounds nothing."""

    first_day: int = FIRST_DAY  # of ScheduledProcedureStepStartDate, both included; as `date.toordinal` counts
    last_day: int = LAST_DAY
    modality: str = ""
    station: str = ""  # a ScheduledStationAETitle
    patient_id: str = ""
    accession_number: str = ""
    name_parts: tuple[str, ...] = ()  # each is in the folded PatientName
    asks_status: bool = False  # there is a key for ScheduledProcedureStepStatus

    @classmethod
    def of(cls, keys: Candidate, *, fuzzy_person_names: bool = False) -> Selection:
        """The selection of an Identifier. Never raises: keys that say nothing certain bound nothing."""
        name = "" if fuzzy_person_names else _text(keys, "PatientName")
        steps = keys.attributes.get(SCHEDULED_PROCEDURE_STEP_SEQUENCE, _EMPTY).values
        step = steps[0] if steps and isinstance(steps[0], Candidate) else Candidate({})
        first_day, last_day = _days(step)
        return cls(
            first_day,
            last_day,
            modality=_whole(step, "Modality"),
            station=_whole(step, "ScheduledStationAETitle"),
            patient_id=_whole(keys, "PatientID"),
            accession_number=_whole(keys, "AccessionNumber"),
            name_parts=tuple(filter(None, _NO_LITERALS.split(fold(name)))),
            asks_status=not is_universal(*step.attributes.get(tag_of("ScheduledProcedureStepStatus"), _EMPTY)),
        )


EVERYTHING: Final = Selection()


def fold(name: str) -> str:
    """A person name without case and marks: names that match, in whatever way, fold to texts that contain each other.

    Marks go because what composes with what depends on the neighbours, which a part of a name has not.
    """
    decomposed = unicodedata.normalize("NFD", name.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _text(keys: Candidate, keyword: str) -> str:
    """The key's only value; empty if it has none, or several of which any may match."""
    values: tuple[Any, ...] = keys.attributes.get(tag_of(keyword), _EMPTY).values
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _whole(keys: Candidate, keyword: str) -> str:
    """The value that an attribute must equal; empty if the key holds wild cards."""
    text = _text(keys, keyword)
    return "" if any(character in text for character in '*?"\\') else text


def _days(step: Candidate) -> tuple[int, int]:
    text = _text(step, "ScheduledProcedureStepStartDate")
    if not text.strip("*"):
        return FIRST_DAY, LAST_DAY
    try:
        asked = compile_range("DA", text)
    except Malformed:
        return FIRST_DAY, LAST_DAY  # the matcher refuses it
    margin = 0 if step.timezone_offset is None else 1  # by the entry's own clock the step may be a day off
    first = FIRST_DAY if asked.first.start == -EVER else asked.first.start // DAY - margin
    last = LAST_DAY if asked.last.end == EVER else asked.last.start // DAY + margin
    return first, last
