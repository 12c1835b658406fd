"""`isen where`, `verify` and `repair`: what an archive holds, and what of that is wrong.

Exit codes: 0 nothing is wrong, or all of it was mended; 1 something is; 2 it could not be found out, or not all of it;
78 the configuration is wrong (EX_CONFIG).
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import typer

from backend.cli.maintenance_output import (
    bar,
    print_actions,
    print_findings,
    print_json,
    print_summary,
    print_whereabouts,
    summary,
)
from backend.cli.tool import (
    FOUND,
    AsJson,
    Configuration,
    Grace,
    Parallel,
    PerSecond,
    ReadData,
    Sample,
    Settle,
    Url,
    failures_told,
)
from backend.maintenance.catalogue import Catalogue
from backend.maintenance.copies import Copies, FolderCopies
from backend.maintenance.findings import Kind
from backend.maintenance.repair import DONE, Repair, RepairOptions, TooManyDeletions
from backend.maintenance.set_up import DEFAULT_PARALLEL, open_archive, open_bucket_copies
from backend.maintenance.verification import Options, Verification
from backend.maintenance.where import look_up


def where(configuration: Configuration, identifier: str, *, url: Url = None, as_json: AsJson = False) -> None:
    """Say where the attachments of an instance (Orthanc id), or one attachment (UUID), are: spool, cache, bucket.

    Exit code 1: one of them is neither in the bucket nor on its way there.
    """
    with failures_told():
        found = look_up(open_archive(configuration, url=url), identifier)
        if as_json:
            typer.echo(json.dumps([one.document() for one in found], indent=2))
        else:
            for one in found:
                print_whereabouts(one)
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
    with failures_told(), closing(Catalogue()) as catalogue:
        archive = open_archive(configuration, url=url, parallel=parallel, per_second=per_second)
        with bar(shown=not as_json) as on_progress:
            verification = Verification(archive, catalogue, options, on_progress)
            verification.run()
        counts = {kind: catalogue.count(kind) for kind in Kind}
        if as_json:
            print_json(summary(verification, counts), Findings=(f.document() for f in catalogue.findings()))
        else:
            print_findings(catalogue.findings(), sum(counts.values()))
            print_summary(verification, counts)
    raise typer.Exit(FOUND if any(counts.values()) else 0)


def repair(
    configuration: Configuration,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this, only say what would be done.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Bring images that Orthanc does not know into it; delete nothing.")
    ] = False,
    delete_unknown: Annotated[
        bool, typer.Option("--delete-unknown", help="Delete also orphans that nobody can identify or Orthanc lacks.")
    ] = False,
    maximum_share: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of all objects that may be deleted at most.")
    ] = 10.0,
    from_directory: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, show_default=False, help="A folder with copies; may be repeated."),
    ] = None,
    from_bucket: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, show_default=False, help="A configuration that names another bucket; may be repeated."
        ),
    ] = None,
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

    Uploads lost objects again from copies of this machine, of folders and of other buckets, deletes orphaned objects
    that Orthanc has under another name or makes itself, aborts multipart uploads left behind. It may be interrupted
    and run again at any time.
    """
    options = Options(read_data, sample, grace_hours * 3600, settle, parallel)
    refusal = ""
    with failures_told(), closing(Catalogue()) as catalogue:
        copies: list[Copies] = [FolderCopies(folder) for folder in from_directory or ()]
        copies += [open_bucket_copies(path, parallel) for path in from_bucket or ()]
        allowed = RepairOptions(adopt, delete_unknown, maximum_share / 100, parallel, tuple(copies))
        archive = open_archive(configuration, url=url, parallel=parallel, per_second=per_second)
        with bar(shown=not as_json) as on_progress:
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
            document = {**summary(verification, counts), "Applied": apply, "Left": left, "Refusal": refusal or None}
            print_json(document, Actions=(action.document() for action in catalogue.actions()))
        else:
            print_actions(catalogue.actions(), sum(counts.values()), applied=apply)
            print_summary(verification, counts)
            if refusal:
                typer.echo(refusal, err=True)
    raise typer.Exit(FOUND if left else 0)


COMMANDS: Final = (where, verify, repair)
