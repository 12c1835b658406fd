"""What is wrong or doubtful in a configuration: collected while it is read, reported all at once.

A problem names the option by its path (`Isen.Storage.Region`) and goes on with a sentence that says what to do. Values
are not repeated, because any of them may be a secret that was written in the wrong place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Problem:
    """One mistake: where, and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigurationError(Exception):
    """The configuration cannot be used; `problems` lists every mistake that was found."""

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        self.warnings = warnings


@dataclass
class Findings:
    """Collects problems and warnings."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, path: str, message: str) -> None:
        """Note a mistake; the configuration will not be used. The first complaint about an option is enough."""
        if all(problem.path != path for problem in self.problems):
            self.problems.append(Problem(path, message))

    def warn(self, path: str, message: str) -> None:
        """Note something the administrator should know; the configuration can be used."""
        self.warnings.append(f"{path}: {message}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """` Did you mean …?`, or nothing when no known name is near."""
    names = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), names, n=1)
    return f" Did you mean {names[close[0]]}?" if close else ""
