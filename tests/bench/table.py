"""What a row of the benchmark is: a piece of work, who does it, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.bench.contenders import Contender, Surroundings
    from tests.bench.destination import Destination
    from tests.bench.distant_s3 import DistantS3
    from tests.bench.gil import Place
    from tests.bench.images import Studies


@dataclass(frozen=True)
class Form:
    """How much is done."""

    name: str
    rounds: int  # of each case; the median counts
    full: bool


QUICK = Form("quick", rounds=3, full=False)
FULL = Form("full", rounds=5, full=True)


@dataclass
class Bench:
    """What the work may use."""

    form: Form
    studies: Studies
    s3: DistantS3
    around: Surroundings
    destination: Destination
    gil: Place | None  # None: not found in this Python
    gil_calibration: Sequence[Mapping[str, float]]
    at_end: ExitStack  # for what a piece of work has started
    memory: dict[tuple[str, str], Any] = field(default_factory=dict)  # what one round leaves for the next


@dataclass(frozen=True)
class Sample:
    """What one round of one contender gave."""

    value: float  # in the unit of the case
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One row of the output."""

    work: str  # "store", "C-MOVE", …
    title: str  # "512 KB, 4 senders"
    unit: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    more_is_better: bool = True


@dataclass(frozen=True)
class Work:
    """Cases that are measured together, and by whom."""

    cases: tuple[Case, ...]
    contenders: tuple[str, ...]
    measure: Callable[[Bench, Contender], Sequence[Sample | None]]  # one for each case; None: it cannot do that
    rounds: int | None = None  # None: as many as the form says


@dataclass
class Result:
    """A case with what each contender gave in every round."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # contender → why it has no value

    def values(self, contender: str) -> list[float]:
        """In the order of the rounds; empty if it took no part or failed."""
        return [sample.value for sample in self.samples.get(contender, [])]

    def median(self, contender: str) -> float | None:
        """None if it took no part or failed."""
        values = self.values(contender)
        return median(values) if values else None

    def ratio(self, contender: str, other: str) -> float | None:
        """How many times better `contender` is than `other`, by medians; None if one of them is missing."""
        mine, theirs = self.median(contender), self.median(other)
        if not mine or not theirs:
            return None
        return mine / theirs if self.case.more_is_better else theirs / mine

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "work": self.case.work,
            "case": self.case.title,
            "unit": self.case.unit,
            "more_is_better": self.case.more_is_better,
            "parameters": dict(self.case.parameters),
            "contenders": {
                name: {
                    "median": self.median(name),
                    "values": self.values(name),
                    "details": [dict(sample.details) for sample in samples],
                }
                for name, samples in self.samples.items()
            },
            "failures": self.failures,
        }
