"""`make bench`: measure the contenders side by side and write down what came out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.bench import picture, report, runner, work_echo, work_find, work_retrieve, work_store
from tests.bench.contenders import RECIPES
from tests.bench.distant_s3 import SERVERS
from tests.bench.table import FULL, QUICK, Form, Result, Work

_HERE: Final = Path(__file__).parent


def main() -> int:
    """Run the benchmark; exit code 1 if a contender did not start or failed in any case."""
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    form = FULL if options.full else QUICK
    if options.rounds:
        form = Form(form.name, options.rounds, form.full)
    console = Console(width=None if sys.stdout.isatty() else 200)
    begin = time.monotonic()
    works = [work for work in _works(form) if not options.only or _is_named(work, options.only)]
    results: list[Result] = []
    with runner.surroundings(form, options.s3, console) as bench:
        with runner.contenders(options.contenders, bench.around, console) as started:
            console.log(f"started: {', '.join(started)}; S3 is {bench.s3.description}")
            missing = set(options.contenders) - set(started)
            for work in works:
                results += runner.run(bench, work, started, console)
        seconds = time.monotonic() - begin
        report.print_tables(console, results)
        report.write_json(options.output / "results.json", bench, results, seconds)
    report.write_markdown(options.output / "results.md", results)
    picture.draw(options.output / "results.svg", results)
    console.print(f"{form.name} form, {seconds:.0f} s; see {options.output}/results.json")
    return 1 if missing or any(result.failures for result in results) else 0


def _works(form: Form) -> list[Work]:
    return [
        *work_store.works(form),
        *work_retrieve.works(form),
        *work_find.works(form),
        *work_echo.works(form),
    ]


def _is_named(work: Work, words: list[str]) -> bool:
    return any(word in f"{case.work}: {case.title}" for case in work.cases for word in words)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every case, five rounds: half an hour at most")
    parser.add_argument("--rounds", type=int, help="instead of the form's")
    parser.add_argument("--only", action="append", help="cases whose name contains this; may be given several times")
    parser.add_argument(
        "--contenders", type=lambda text: text.split(","), default=list(RECIPES), help="comma-separated; default: all"
    )
    parser.add_argument("--s3", choices=list(SERVERS), default="own", help="which S3 server; the others take more CPU")
    parser.add_argument("--output", type=Path, default=_HERE, help="folder of results.json, results.md and the picture")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
