"""What the operators' tools print: a table for people, one JSON object for scripts, a bar while they work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from backend.maintenance.findings import Action, Deed, Finding, Kind
from backend.maintenance.progress import Progress
from backend.maintenance.repair import DONE
from backend.maintenance.verification import Verification
from backend.maintenance.where import Whereabouts

_SHOWN: Final = 50  # lines of a table; --json has all


@contextmanager
def bar(*, shown: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as shown_bar:
        task = shown_bar.add_task("Starting", total=None)

        def show(progress: Progress) -> None:
            shown_bar.update(task, description=progress.step, completed=progress.done, total=progress.total or None)

        yield show


def summary(verification: Verification, counts: dict[Kind, int]) -> dict[str, Any]:
    found = {"".join(part.capitalize() for part in kind.split("-")): count for kind, count in counts.items()}
    return {"Counts": {**verification.counts.document(), **found}, "Notes": verification.notes}


def print_json(summary: dict[str, Any], **lists: Iterator[dict[str, Any]]) -> None:
    """One object; the lists may be longer than memory."""
    typer.echo(json.dumps(summary, indent=2).removesuffix("\n}"), nl=False)
    for name, documents in lists.items():
        typer.echo(f',\n  "{name}": [', nl=False)
        for number, document in enumerate(documents):
            typer.echo((",\n    " if number else "\n    ") + json.dumps(document), nl=False)
        typer.echo("\n  ]", nl=False)
    typer.echo("\n}")


def print_findings(findings: Iterator[Finding], total: int) -> None:
    table = _table("", "Attachment", "Found")
    for finding, _ in zip(findings, range(_SHOWN), strict=False):
        table.add_row(f"[red]{finding.kind}[/]", finding.key, escape(finding.found))
    _print_table(table, total)


def print_actions(actions: Iterator[Action], total: int, *, applied: bool) -> None:
    table = _table("", "Attachment", "To be done", "Why", "Outcome" if applied else "")
    for action, _ in zip(actions, range(_SHOWN), strict=False):
        deed = "-" if action.deed is Deed.NOTHING else action.deed
        outcome = f"[{'green' if action.outcome == DONE else 'red'}]{escape(action.outcome)}[/]"
        table.add_row(f"[red]{action.finding.kind}[/]", action.finding.key, deed, escape(action.reason), outcome)
    _print_table(table, total)
    if total and not applied:
        typer.echo("Nothing was changed; --apply does it.")


def _table(*columns: str, header: bool = True) -> Table:
    """Long keys and paths are continued on the next line, never cut: somebody will want to copy them."""
    table = Table(box=None, pad_edge=False, show_header=header)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print_table(table: Table, total: int) -> None:
    if table.row_count:
        Console(soft_wrap=True).print(table)
    if total > _SHOWN:
        typer.echo(f"… and {total - _SHOWN} more; --json prints all")


def print_summary(verification: Verification, counts: dict[Kind, int]) -> None:
    looked = verification.counts
    typer.echo(
        f"{looked.attachments} attachments in the index, {looked.objects} objects in the bucket, "
        f"{looked.pending} in the spool, {looked.read} read"
    )
    typer.echo(", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing is wrong")
    for note in verification.notes:
        typer.echo(note, err=True)


def print_whereabouts(found: Whereabouts) -> None:
    table = _table("", "", header=False)
    document = found.document()
    title = found.indexed.path if found.indexed else found.name
    table.add_row("Attachment", f"{title}" + (f", {found.indexed.size} bytes" if found.indexed else ""))
    for file in found.local:
        table.add_row(str(file.place), f"{file.path}, {file.size} bytes, {file.age:.0f} s ago")
    stored = document["Object"]
    if stored is None:
        table.add_row("bucket", f"no object {found.key}")
    else:
        age, kind = stored["AgeSeconds"], stored["StorageClass"]
        table.add_row("bucket", f"{found.key}, {stored['Size']} bytes, {age:.0f} s ago, {kind}, ETag {stored['ETag']}")
        table.add_row("SHA-256", stored["SHA256"] or "none was stored with it")
    Console(soft_wrap=True).print(table)
