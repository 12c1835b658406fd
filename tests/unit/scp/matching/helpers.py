"""What the tests of matching have in common."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from scp.matching import Matcher, MatchingOptions, compile_identifier
from tests.fakes.data_sets import data_set, received

SPS = "ScheduledProcedureStepSequence"


def compiled(keys: dict[str, Any] | Dataset, **options: Any) -> Matcher:
    """A matcher for keys that came over the network."""
    keys = keys if isinstance(keys, Dataset) else data_set(keys)
    return compile_identifier(received(keys), MatchingOptions(**options))


def match(keyword: str, key: Any, stored: Any, **options: Any) -> bool:
    """Whether a key matches a stored value of the same attribute, both encoded and decoded on the way."""
    candidate = received(data_set({keyword: stored}))
    return compiled({keyword: key}, **options).matches(candidate)
