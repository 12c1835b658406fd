"""Whatever happens to an archive, what it has acknowledged reads back; and the histories find it if not."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from backend.spool import Spool
from tests.faults.forked_node import ForkedNode, Forks
from tests.faults.histories import History

STEPS = 25  # of one history, at most


class ForgetsARename(Spool):
    """Every third attachment is acknowledged and stays where the next start sweeps it away."""

    accepted = 0

    def accept(self, name: str, content: bytes, digest: bytes | None = None) -> None:
        self.accepted += 1
        if self.accepted % 3 == 0:
            self.stage(name, content, digest, durable=True)
        else:
            super().accept(name, content, digest)


class Miscounts(Spool):
    """What the transfer process has taken out is counted off twice."""

    def released(self, total: int) -> None:
        super().released(total * 2)


class Unburied(Spool):
    """A removal is only remembered by the process that was told of it, which forgets."""

    def bury(self, name: str, *, in_doubt: bool = False) -> None:
        """Nothing."""


SPOOLS: dict[str, tuple[type[Spool], set[str]]] = {
    "forgets-a-rename": (
        ForgetsARename,
        {"a read failed as missing", "an acknowledged attachment is not in S3", "never: incoming is empty"},
    ),
    "miscounts": (
        Miscounts,
        {"the spool holds more bytes than it says", "never: the spool says that it is empty"},
    ),
    "unburied": (Unburied, {"a removed attachment is still in S3"}),
}
PROCESSES = {
    "drop-some-pending": {
        *("a read failed as missing", "an acknowledged attachment is not in S3", "acknowledged before S3 had it"),
    },
    "leave-objects": {"a removed attachment is still in S3"},
    "trust-the-server": {"other bytes were served than were stored"},
    "upload-after-removal": {"a removed attachment is still in S3", "never: pending is empty"},
}
QUICKLY_FOUND = {"forgets-a-rename", "drop-some-pending", "trust-the-server"}


@contextmanager
def machine(mistake: str = "none", spool: type[Spool] = Spool) -> Iterator[type[History]]:
    """A state machine with an S3 server of its own."""
    forks = Forks(mistake)
    node = type("Node", (ForkedNode,), {"spool_class": spool})
    members: dict[str, Any] = {"forks": forks, "node_class": node, "violations": [], "steps": 0}
    try:
        yield type("SomeHistory", (History,), members)
    finally:
        forks.close()


def run(history: type[History], examples: int, *, chosen: int | None = None) -> None:
    """The same histories each time; or others, and the seed is printed that makes them again."""
    options = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        derandomize=chosen is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # to shorten a history takes minutes; its steps are printed in any case
        verbosity=Verbosity.normal,
    )
    if chosen is not None:
        print(f"ISEN_HISTORIES_SEED={chosen}")
        history = seed(chosen)(history)
    started = time.monotonic()
    run_state_machine_as_test(history, settings=options)
    print(f"{examples} histories, {history.steps} steps, {time.monotonic() - started:.1f} s")


@pytest.mark.timeout(200)
def test_what_was_acknowledged_and_not_removed_reads_back_whatever_happens() -> None:
    with machine() as history:
        run(history, 10)
        assert history.steps > 100


def short_and_long(mistakes: Iterable[str]) -> list[Any]:
    """Some take many histories to be found out."""
    return [one if one in QUICKLY_FOUND else pytest.param(one, marks=pytest.mark.soak) for one in mistakes]


@pytest.mark.parametrize("mistake", short_and_long(SPOOLS))
@pytest.mark.timeout(200)
def test_a_spool_with_a_mistake_is_found_out(mistake: str) -> None:
    """The histories are no test if they cannot fail."""
    spool, expected = SPOOLS[mistake]
    assert_found_out(expected, spool=spool)


@pytest.mark.parametrize("mistake", short_and_long(PROCESSES))
@pytest.mark.timeout(200)
def test_a_transfer_process_with_a_mistake_is_found_out(mistake: str) -> None:
    assert_found_out(PROCESSES[mistake], mistake)


def assert_found_out(expected: set[str], mistake: str = "none", spool: type[Spool] = Spool) -> None:
    with machine(mistake, spool) as history:
        with pytest.raises(BaseException):  # noqa: B017 - Hypothesis may call it flaky: it is about time, too
            run(history, 100)
        assert expected & set(history.violations), history.violations


@pytest.mark.soak
def test_thousands_of_histories() -> None:
    """Others each time, but for those of a seed in ISEN_HISTORIES_SEED."""
    chosen = os.environ.get("ISEN_HISTORIES_SEED")
    seeds = [int(chosen)] if chosen else [random.SystemRandom().randrange(2**32) for _ in range(20)]
    with machine() as history:
        for number in seeds:
            run(history, 200, chosen=number)
