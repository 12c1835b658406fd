"""Runs cases: contenders take turns within a round, so that no one gets all of the machine's good or bad moments."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.bench import gil
from tests.bench.contenders import DESTINATION, RECIPES, Contender, Surroundings
from tests.bench.destination import Destination
from tests.bench.distant_s3 import SERVERS
from tests.bench.images import Studies
from tests.bench.table import Bench, Form, Result, Work

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a tmpfs where there is one


@contextlib.contextmanager
def surroundings(form: Form, server: str, console: Console) -> Iterator[Bench]:
    """S3, the destination of C-MOVE, folders and the place of the GIL; all of it is gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 4 << 30
        images = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=_MEMORY if in_memory else None))
        )
        s3 = SERVERS[server](folder)
        stack.callback(s3.stop)
        destination = Destination(DESTINATION, images)
        stack.callback(destination.stop)
        try:
            place, truths = gil.find()
        except gil.GilNotFound as error:
            console.print(f"[yellow]GIL not watched: its place in {error} is unknown")
            place, truths = None, []
        around = Surroundings(folder, s3, destination.port)
        yield Bench(form, Studies(images), s3, around, destination, place, truths, stack)


@contextlib.contextmanager
def contenders(names: Sequence[str], around: Surroundings, console: Console) -> Iterator[dict[str, Contender]]:
    """Started contenders by name; one that does not start is named and left out."""
    started: dict[str, Contender] = {}
    made = [Contender(RECIPES[name], around) for name in names]
    try:
        for contender in made:  # from this thread: a process started from another one would end with that thread
            try:
                contender.start()
            except Exception as error:  # noqa: BLE001 - the others are still worth measuring
                console.print(f"[red]{contender.name} did not start: {str(error)[-2000:]}")
            else:
                started[contender.name] = contender
        yield started
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(_end, made))


def _end(contender: Contender) -> None:
    with contextlib.suppress(AssertionError):  # it was never started, or it lives on: then it is killed with its group
        contender.stop()


def run(bench: Bench, work: Work, available: Mapping[str, Contender], console: Console) -> list[Result]:
    """Every round of one piece of work; a result for each of its cases."""
    results = [Result(case) for case in work.cases]
    taking_part = [available[name] for name in work.contenders if name in available]
    rounds = min(work.rounds or bench.form.rounds, bench.form.rounds)
    begin = time.monotonic()
    for number in range(rounds):
        first = number % max(1, len(taking_part))
        for contender in taking_part[first:] + taking_part[:first]:
            if any(contender.name in result.failures for result in results):
                continue
            try:
                samples = work.measure(bench, contender)
            except Exception as error:  # noqa: BLE001 - one contender's failure is a result, not the end of the run
                _fail(results, contender.name, error, console)
                continue
            for result, sample in zip(results, samples, strict=True):
                if sample is not None:
                    result.samples.setdefault(contender.name, []).append(sample)
    case = work.cases[0]
    console.log(f"{case.work}: {case.title} ({rounds} rounds, {time.monotonic() - begin:.0f} s)")
    return results


def _fail(results: Sequence[Result], name: str, error: Exception, console: Console) -> None:
    sentence = f"{type(error).__name__}: {str(error)[:300]}"
    for result in results:
        result.failures[name] = sentence
    console.print(f"[red]{results[0].case.work} {results[0].case.title}: {name}: {sentence}", markup=True)
