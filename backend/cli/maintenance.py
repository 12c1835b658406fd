"""`isen where`, `verify`, `repair`, `migrate` and `encrypt`: what operators do with an archive.

Exit codes: 0 nothing is wrong, or all of it was mended; 1 something is; 2 it could not be found out, or not all of it;
78 the configuration is wrong (EX_CONFIG).
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
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
from backend.maintenance.catalogue import Catalogue
from backend.maintenance.copies import Copies, FolderCopies
from backend.maintenance.export import Export
from backend.maintenance.findings import Finding, Kind
from backend.maintenance.local import FoldersUnreadable
from backend.maintenance.progress import Progress
from backend.maintenance.reencryption import Reencryption
from backend.maintenance.release import Release, StillInUse
from backend.maintenance.repair import DONE, Repair, RepairOptions, TooManyDeletions
from backend.maintenance.rest import OrthancUnavailable
from backend.maintenance.set_up import DEFAULT_PARALLEL, Archive, open_archive, open_bucket_copies
from backend.maintenance.verification import Options, Verification
from backend.maintenance.where import NoSuchId, look_up
from backend.transfer.object_store.errors import ObjectStoreError, UnusableSettings
from config.child_process import CANNOT_START
from config.problems import ConfigurationError

FOUND: Final = 1
COULD_NOT: Final = 2

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
    with _failures_told(), closing(Catalogue()) as catalogue:
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
    with _failures_told(), closing(Catalogue()) as catalogue:
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


def migrate(
    configuration: Configuration,
    *,
    storage_directory: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            show_default=False,
            help="StorageDirectory of Orthanc's own storage area; with HybridMode that of the configuration.",
        ),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="From the bucket into the folder.")] = False,
    remove_copied: Annotated[
        bool, typer.Option("--remove-copied", help="Then remove the files whose objects are proved to be right.")
    ] = False,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read each object for that proof, whatever its checksums say.")
    ] = False,
    parallel: Parallel = DEFAULT_PARALLEL,
    per_second: PerSecond = 0.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Copy the attachments of Orthanc's own storage area into the bucket, or back; Orthanc goes on working.

    Every copy is verified; nothing is deleted on either side unless --remove-copied is given; what is there already is
    not copied again. It may be interrupted and run again at any time. Exit code 1: some attachments could not be had.
    """
    with _failures_told(), closing(Catalogue()) as catalogue, closing(Catalogue()) as kept:
        archive = open_archive(
            configuration,
            url=url,
            parallel=parallel,
            per_second=per_second,
            is_migration=True,
            storage_directory=storage_directory,
        )
        folder = _folder_to_migrate(archive, back=back, remove_copied=remove_copied)
        with bar(shown=not as_json) as on_progress:
            if back:
                export = Export(archive, folder, parallel=parallel, on_progress=on_progress)
                export.run(catalogue.found)
                counts: Counter[str] = export.counts
                failed = catalogue.findings()
            else:
                release = Release(archive, folder, parallel=parallel, read_data=read_data, on_progress=on_progress)
                if remove_copied:
                    release.check()
                counts = _migrate_there(archive, catalogue, parallel, on_progress)
                if remove_copied:
                    release.run(kept.found)
                    counts += release.counts
                failed = chain(_not_done(catalogue), kept.findings())
        if as_json:
            print_json({"Counts": counts}, Failed=(finding.document() for finding in failed))
        else:
            print_findings(failed, _left(counts))
            typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()) or "there are no attachments")
    raise typer.Exit(FOUND if _left(counts) else 0)


def _folder_to_migrate(archive: Archive, *, back: bool, remove_copied: bool) -> Path:
    if back and remove_copied:
        raise typer.BadParameter("with --back the objects stay; delete the bucket when nothing needs it any more")
    if archive.storage_directory is None:
        raise typer.BadParameter("HybridMode is off, so name the folder: --storage-directory")
    return archive.storage_directory


def _migrate_there(
    archive: Archive, catalogue: Catalogue, parallel: int, on_progress: Callable[[Progress], None]
) -> Counter[str]:
    """Upload what the bucket lacks; `catalogue` takes what was done."""
    options = Options(settle=0.0, parallel=parallel, bucket_only=True)
    Verification(archive, catalogue, options, on_progress).run()
    Repair(archive, catalogue, RepairOptions(parallel=parallel), on_progress).migrate()
    counts = Counter("uploaded" if action.outcome == DONE else "failed" for action in catalogue.actions())
    return Counter(present=len(catalogue) - counts.total()) + counts


def _not_done(catalogue: Catalogue) -> Iterator[Finding]:
    return (replace(action.finding, found=action.outcome) for action in catalogue.actions() if action.outcome != DONE)


def _left(counts: Counter[str]) -> int:
    return counts["failed"] + counts["kept files"]


def encrypt(
    configuration: Configuration,
    *,
    parallel: Parallel = DEFAULT_PARALLEL,
    per_second: PerSecond = 0.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt every object with the current key of Isen.Storage.Encryption that is not; Orthanc goes on working.

    Unencrypted objects, those of the native plugin's StorageEncryption, and those of older keys. Each is verified
    before it is replaced. It may be interrupted and run again at any time.
    Exit code 1: some objects could not be encrypted.
    """
    with _failures_told(), closing(Catalogue()) as catalogue:
        archive = open_archive(configuration, url=url, parallel=parallel, per_second=per_second)
        if not archive.current_encryption:
            typer.echo("Isen.Storage.Encryption: is missing or off; name the keys there", err=True)
            raise typer.Exit(CANNOT_START)
        with bar(shown=not as_json) as on_progress:
            work = Reencryption(archive, archive.current_encryption, parallel=parallel, on_progress=on_progress)
            work.run(catalogue.found)
        if as_json:
            print_json({"Counts": dict(work.counts)}, Failed=(finding.document() for finding in catalogue.findings()))
        else:
            print_findings(catalogue.findings(), work.counts["failed"])
            typer.echo(
                ", ".join(f"{count} {name}" for name, count in work.counts.items()) or "there are no attachments"
            )
    raise typer.Exit(FOUND if work.counts["failed"] else 0)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (where, verify, repair, migrate, encrypt):
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
    except (
        OrthancUnavailable,
        ObjectStoreError,
        UnusableSettings,
        FoldersUnreadable,
        NoSuchId,
        StillInUse,
        OSError,
    ) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(COULD_NOT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; it may be run again", err=True)
        raise typer.Exit(COULD_NOT) from None
