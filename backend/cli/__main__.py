"""`isen`, the command line.

Exit codes: 0 all is well, 1 a check failed or something does not work, 2 a tool could not do its work, 78 the
configuration is wrong (EX_CONFIG).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend.cli import maintenance, migration
from backend.cli import status as running
from backend.cli.check import Report, run_checks
from backend.cli.outcome import Verdict
from config.child_process import CANNOT_START

FAILED = 1
_MARKS = {Verdict.PASSED: "[green]✓[/]", Verdict.WARNING: "[yellow]![/]", Verdict.FAILED: "[red]✗[/]"}

app = typer.Typer(
    help="Orthanc with its images in S3 and its DICOM services in Python.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and one of them may be a secret
)


@app.callback()
def isen() -> None:
    """Orthanc with its images in S3 and its DICOM services in Python."""


@app.command()
def check(
    configuration: Annotated[
        list[Path], typer.Argument(help="Orthanc's configuration: files, or the folder with them.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Validate the configuration as Orthanc's start does, then try folders, bucket, ports and certificates.

    Run it as the user Orthanc runs as. It creates nothing, except for a small object in the bucket that it deletes.
    """
    report = run_checks(configuration)
    if as_json:
        _print_json(report)
    else:
        _print_table(report)
    raise typer.Exit(CANNOT_START if report.problems else 0 if report.works else FAILED)


@app.command()
def status(
    url: Annotated[
        str, typer.Option(envvar="ISEN_URL", show_envvar=True, show_default=False, help="Address of Orthanc.")
    ] = "http://127.0.0.1:8042",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print Isen's JSON as it is.")] = False,
) -> None:
    """Show the state of a running Isen: object store, spool, cache, processes and associations."""
    try:
        document = running.fetch(url)
    except running.StatusUnavailable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(FAILED) from None
    lines = list(running.lines(document))
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        table = Table(show_header=False, box=None)
        for line in lines:
            mark = "" if line.healthy is None else _MARKS[Verdict.PASSED if line.healthy else Verdict.FAILED]
            table.add_row(mark, escape(line.name), escape(line.value))
        Console().print(table)
    raise typer.Exit(FAILED if any(line.healthy is False for line in lines) else 0)


for command in (*maintenance.COMMANDS, *migration.COMMANDS):
    app.command()(command)


def _print_json(report: Report) -> None:
    typer.echo(
        json.dumps(
            {
                "Works": report.works,
                "Errors": [{"Path": problem.path, "Message": problem.message} for problem in report.problems],
                "Checks": [
                    {"Check": outcome.check, "Verdict": outcome.verdict, "Found": outcome.found}
                    for outcome in report.outcomes
                ],
            },
            indent=2,
        )
    )


def _print_table(report: Report) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for problem in report.problems:
        table.add_row(_MARKS[Verdict.FAILED], "Configuration", escape(str(problem)))
    for outcome in report.outcomes:
        table.add_row(_MARKS[outcome.verdict], outcome.check, escape(outcome.found))
    console = Console()
    console.print(table)
    if os.geteuid() == 0:
        console.print("Checked as root; Orthanc's own user may have fewer rights (sudo -u orthanc isen check …).")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
