"""`isen where`, `isen verify` and `isen repair`: the tools for when something might be wrong.

Exit codes: 0 nothing is wrong, or all of it was mended; 1 something is; 2 it could not be found out, or not all of it;
78 the configuration is wrong (EX_CONFIG).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from backend.maintenance.catalogue import Catalogue
from backend.maintenance.findings import Action, Deed, Finding, Kind
from backend.maintenance.local import FoldersUnreadable
from backend.maintenance.repair import DONE, Repair, RepairOptions, TooManyDeletions
from backend.maintenance.rest import OrthancUnavailable
from backend.maintenance.set_up import DEFAULT_PARALLEL, open_archive
from backend.maintenance.verification import Options, Progress, Verification
from backend.maintenance.where import NoSuchId, Whereabouts, look_up
from backend.transfer.object_store.errors import ObjectStoreError, UnusableSettings
from config.child_process import CANNOT_START
from config.problems import ConfigurationError

FOUND: Final = 1
COULD_NOT: Final = 2
_SHOWN: Final = 50  # lines of a table; --json has all

Configuration = Annotated[
    list[Path], typer.Argument(help="Orthanc's configuration: files, or the folder with them.", show_default=False)
]
Url = Annotated[
    str | None,
    typer.Option(envvar="ISEN_URL", show_default=False, help="Address of Orthanc, if not this configuration's."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Parallel = Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")]
PerSecond = Annotated[float, typer.Option(min=0, help="The most requests per second to Orthanc; 0: no limit.")]
ReadData = Annotated[bool, typer.Option("--read-data", help="Read every object and compare its bytes.")]
Sample = Annotated[int, typer.Option(min=0, help="Read so many objects, drawn at random.")]
Grace = Annotated[float, typer.Option(min=0, help="Hours; what is younger is no orphan and no stale upload.")]
Settle = Annotated[float, typer.Option(min=0, help="Seconds that uploads and removals under way may take.")]


def where(configuration: Configuration, identifier: str, *, url: Url = None, as_json: AsJson = False) -> None:
    """Say where the attachments of an instance (Orthanc id), or one attachment (UUID), are: spool, cache, bucket.

    Exit code 1: one of them is neither in the bucket nor on its way there.
    """
    with _failures_told():
        found = look_up(open_archive(configuration, url=url), identifier)
        if as_json:
            typer.echo(json.dumps([one.document() for one in found], indent=2))
        else:
            for one in found:
                _print_whereabouts(one)
    raise typer.Exit(0 if all(one.is_safe for one in found) else FOUND)


def verify(
    configuration: Configuration,
    *,
    read_data: ReadData = False,
    sample: Sample = 0,
    grace_hours: Grace = 24.0,
    settle: Settle = 30.0,
    parallel: Parallel = DEFAULT_PARALLEL,
    per_second: PerSecond = 0.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Compare Orthanc's index with the bucket; changes nothing, and Orthanc goes on working.

    Finds objects that are missing, orphaned, of the wrong size or with other bytes, and multipart uploads left behind.
    """
    options = Options(read_data, sample, grace_hours * 3600, settle, parallel)
    with _failures_told(), closing(Catalogue()) as catalogue:
        archive = open_archive(configuration, url=url, parallel=parallel, per_second=per_second)
        with _bar(shown=not as_json) as on_progress:
            verification = Verification(archive, catalogue, options, on_progress)
            verification.run()
        counts = {kind: catalogue.count(kind) for kind in Kind}
        if as_json:
            _print_json(_summary(verification, counts), Findings=(f.document() for f in catalogue.findings()))
        else:
            _print_findings(catalogue.findings(), sum(counts.values()))
            _print_summary(verification, counts)
    raise typer.Exit(FOUND if any(counts.values()) else 0)


def repair(
    configuration: Configuration,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this, only say what would be done.")] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="Bring images that Orthanc does not know into it.")] = False,
    delete_unknown: Annotated[
        bool, typer.Option("--delete-unknown", help="Delete also orphans that nobody can identify or Orthanc lacks.")
    ] = False,
    maximum_share: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of all objects that may be deleted at most.")
    ] = 10.0,
    read_data: ReadData = False,
    sample: Sample = 0,
    grace_hours: Grace = 24.0,
    settle: Settle = 30.0,
    parallel: Parallel = DEFAULT_PARALLEL,
    per_second: PerSecond = 0.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Verify, then mend what can be mended: a dry run unless --apply is given.

    Uploads lost objects again from copies of this machine, deletes orphaned objects that Orthanc has under another
    name or makes itself, aborts multipart uploads left behind. It may be interrupted and run again at any time.
    """
    options = Options(read_data, sample, grace_hours * 3600, settle, parallel)
    allowed = RepairOptions(adopt, delete_unknown, maximum_share / 100, parallel)
    refusal = ""
    with _failures_told(), closing(Catalogue()) as catalogue:
        archive = open_archive(configuration, url=url, parallel=parallel, per_second=per_second)
        with _bar(shown=not as_json) as on_progress:
            verification = Verification(archive, catalogue, options, on_progress)
            verification.run()
            work = Repair(archive, catalogue, allowed, on_progress)
            work.plan()
            if apply:
                try:
                    work.apply(verification.counts.objects)
                except TooManyDeletions as error:
                    refusal = str(error)
        left = sum(action.outcome != DONE for action in catalogue.actions())
        counts = {kind: catalogue.count(kind) for kind in Kind}
        if as_json:
            summary = {**_summary(verification, counts), "Applied": apply, "Left": left, "Refusal": refusal or None}
            _print_json(summary, Actions=(action.document() for action in catalogue.actions()))
        else:
            _print_actions(catalogue.actions(), sum(counts.values()), applied=apply)
            _print_summary(verification, counts)
            if refusal:
                typer.echo(refusal, err=True)
    raise typer.Exit(FOUND if left else 0)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (where, verify, repair):
        app.command()(command)


@contextmanager
def _failures_told() -> Iterator[None]:
    """Turn what keeps a tool from its work into a sentence and an exit code."""
    warnings.filterwarnings("ignore", module=r"pydicom\b")  # they may quote a patient's data
    try:
        yield
    except ConfigurationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(CANNOT_START) from None
    except (OrthancUnavailable, ObjectStoreError, UnusableSettings, FoldersUnreadable, NoSuchId, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(COULD_NOT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; it may be run again", err=True)
        raise typer.Exit(COULD_NOT) from None


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("Starting", total=None)

        def show(progress: Progress) -> None:
            bar.update(task, description=progress.step, completed=progress.done, total=progress.total or None)

        yield show


def _summary(verification: Verification, counts: dict[Kind, int]) -> dict[str, Any]:
    found = {"".join(part.capitalize() for part in kind.split("-")): count for kind, count in counts.items()}
    return {"Counts": {**verification.counts.document(), **found}, "Notes": verification.notes}


def _print_json(summary: dict[str, Any], **lists: Iterator[dict[str, Any]]) -> None:
    """One object; the lists may be longer than memory."""
    typer.echo(json.dumps(summary, indent=2).removesuffix("\n}"), nl=False)
    for name, documents in lists.items():
        typer.echo(f',\n  "{name}": [', nl=False)
        for number, document in enumerate(documents):
            typer.echo((",\n    " if number else "\n    ") + json.dumps(document), nl=False)
        typer.echo("\n  ]", nl=False)
    typer.echo("\n}")


def _print_findings(findings: Iterator[Finding], total: int) -> None:
    table = Table("", "Attachment", "Found", box=None, pad_edge=False)
    for finding, _ in zip(findings, range(_SHOWN), strict=False):
        table.add_row(f"[red]{finding.kind}[/]", finding.key, escape(finding.found))
    _print_table(table, total)


def _print_actions(actions: Iterator[Action], total: int, *, applied: bool) -> None:
    table = Table("", "Attachment", "To be done", "Why", "Outcome" if applied else "", box=None, pad_edge=False)
    for action, _ in zip(actions, range(_SHOWN), strict=False):
        deed = "-" if action.deed is Deed.NOTHING else action.deed
        outcome = f"[{'green' if action.outcome == DONE else 'red'}]{escape(action.outcome)}[/]"
        table.add_row(f"[red]{action.finding.kind}[/]", action.finding.key, deed, escape(action.reason), outcome)
    _print_table(table, total)
    if total and not applied:
        typer.echo("Nothing was changed; --apply does it.")


def _print_table(table: Table, total: int) -> None:
    if table.row_count:
        Console(soft_wrap=True).print(table)
    if total > _SHOWN:
        typer.echo(f"… and {total - _SHOWN} more; --json prints all")


def _print_summary(verification: Verification, counts: dict[Kind, int]) -> None:
    looked = verification.counts
    typer.echo(
        f"{looked.attachments} attachments in the index, {looked.objects} objects in the bucket, "
        f"{looked.pending} in the spool, {looked.read} read"
    )
    typer.echo(", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing is wrong")
    for note in verification.notes:
        typer.echo(note, err=True)


def _print_whereabouts(found: Whereabouts) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
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
