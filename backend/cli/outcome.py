"""What one check found: a verdict, what was seen, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """`WARNING` works, but should be known; it does not make `isen check` fail."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """One line of `isen check`."""

    check: str  # what was tried, for example "Spool folder"
    verdict: Verdict
    found: str  # a sentence; with its remedy unless it passed


def passed(check: str, found: str) -> Outcome:
    return Outcome(check, Verdict.PASSED, found)


def warning(check: str, found: str) -> Outcome:
    return Outcome(check, Verdict.WARNING, found)


def failed(check: str, found: str) -> Outcome:
    return Outcome(check, Verdict.FAILED, found)
