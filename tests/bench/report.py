"""The output: tables in the terminal, JSON, and Markdown for the README."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench.contenders import ISEN, ISEN_OBJECTSTORE, ORTHANC, ORTHANC_NODELAY, RECIPES, SAMPLES
from tests.bench.table import Bench, Result

_RATIOS: Final = (  # contender, against whom
    (ISEN, ORTHANC),
    (ISEN, ORTHANC_NODELAY),
    (ISEN, SAMPLES),
    (ISEN_OBJECTSTORE, ORTHANC_NODELAY),
)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "dcmtk": _version("dcmsend", "--version"),
        "orthanc": _version("/usr/sbin/Orthanc", "--version"),
    }


def write_json(path: Path, bench: Bench, results: Sequence[Result], seconds: float) -> None:
    """`results.json`: everything that was measured."""
    document = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "form": bench.form.name,
        "seconds": round(seconds),
        "machine": machine(),
        "s3": bench.s3.description,
        "gil_calibration": list(bench.gil_calibration),
        "contenders": {name: recipe.description for name, recipe in RECIPES.items()},
        "results": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def print_tables(console: Console, results: Sequence[Result]) -> None:
    """Medians with the lowest and highest round, and Isen's ratios."""
    names = [name for name in RECIPES if any(name in result.samples for result in results)]
    ratios = [(a, b) for a, b in _RATIOS if a in names and b in names]
    table = Table(title="median (lowest-highest round)", header_style="bold", show_lines=True)
    table.add_column("work", no_wrap=True)
    for name in names:
        table.add_column(_broken(name), justify="right")
    for contender, other in ratios:
        table.add_column(f"{_broken(contender)}\nx {_broken(other)}", justify="right", style="cyan")
    for result in results:
        cells = [_cell(result, name) for name in names] + [_ratio(result, *pair) for pair in ratios]
        table.add_row(f"{result.case.work}, {result.case.unit}\n{result.case.title}", *cells)
    console.print(table)
    console.print("x: how many times better, by medians")
    _print_side_effects(console, results)


def _broken(name: str) -> str:
    return name.replace("-", "\n-")


def _print_side_effects(console: Console, results: Sequence[Result]) -> None:
    table = Table(title="while storing: medians", header_style="bold")
    for column in ("case", "contender", "REST p50 ms", "p99 ms", "all in S3 after s", "backlog", "CPU ms per image"):
        table.add_column(column, justify="left" if column in ("case", "contender", "CPU ms per image") else "right")
    for result in results:
        for name, samples in result.samples.items() if result.case.work == "store" else ():
            details = [sample.details for sample in samples]
            figures = (
                f"{median(detail[field] for detail in details):.{digits}f}"
                for field, digits in (
                    ("rest_p50_ms", 1),
                    ("rest_p99_ms", 1),
                    ("seconds_until_all_in_s3", 1),
                    ("backlog", 0),
                )
            )
            table.add_row(result.case.title, name, *figures, _cpu(details))
    if table.row_count:
        console.print(table)


def _cpu(details: Sequence[Any]) -> str:
    programs = details[0]["processes"]
    return ", ".join(
        f"{program} {median(detail['processes'].get(program, {'cpu_ms': 0})['cpu_ms'] for detail in details):.1f}"
        for program in programs
    )


def write_markdown(path: Path, results: Sequence[Result]) -> None:
    """A table for the README."""
    names = [name for name in RECIPES if any(name in result.samples for result in results)]
    rows = [["", *names], ["---", *["---:" for _ in names]]]
    rows += [
        [f"{result.case.work}: {result.case.title} ({result.case.unit})", *[_cell(result, name) for name in names]]
        for result in results
    ]
    lines = ["| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" for row in rows]
    lines += ["", "Median of the rounds (lowest to highest). Contenders:", ""]
    lines += [f"* `{name}`: {RECIPES[name].description}" for name in names]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(result: Result, name: str) -> str:
    if name in result.failures:
        return "failed"
    values = result.values(name)
    if not values:
        return "-"
    middle = f"{_number(median(values))}"
    return middle if len(values) == 1 else f"{middle}\n({_number(min(values))}-{_number(max(values))})"


def _ratio(result: Result, contender: str, other: str) -> str:
    ratio = result.ratio(contender, other)
    return "-" if ratio is None else f"{ratio:.2f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _version(*command: str) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return run.stdout.splitlines()[0].strip("$ \n") if run.stdout else ""
