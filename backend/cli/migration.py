"""`isen migrate` and `encrypt`: every attachment of an archive to another place, or into another form.

Exit codes: 0 all of it was done; 1 some attachments could not be; 2 the run could not be finished; 78 the configuration
is wrong (EX_CONFIG).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import typer

from backend.cli.maintenance_output import bar, print_findings, print_json
from backend.cli.tool import FOUND, AsJson, Configuration, Parallel, PerSecond, Url, failures_told
from backend.maintenance.catalogue import Catalogue
from backend.maintenance.export import Export
from backend.maintenance.findings import Finding
from backend.maintenance.progress import Progress
from backend.maintenance.reencryption import Reencryption
from backend.maintenance.release import Release
from backend.maintenance.repair import DONE, Repair, RepairOptions
from backend.maintenance.set_up import DEFAULT_PARALLEL, Archive, open_archive
from backend.maintenance.verification import Options, Verification
from config.child_process import CANNOT_START


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
    with failures_told(), closing(Catalogue()) as catalogue, closing(Catalogue()) as kept:
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
        _print_outcome(counts, failed, as_json=as_json)
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


def _print_outcome(counts: Counter[str], failed: Iterator[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json({"Counts": counts}, Failed=(finding.document() for finding in failed))
    else:
        print_findings(failed, _left(counts))
        typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()) or "there are no attachments")


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
    with failures_told(), closing(Catalogue()) as catalogue:
        archive = open_archive(configuration, url=url, parallel=parallel, per_second=per_second)
        if not archive.current_encryption:
            typer.echo("Isen.Storage.Encryption: is missing or off; name the keys there", err=True)
            raise typer.Exit(CANNOT_START)
        with bar(shown=not as_json) as on_progress:
            work = Reencryption(archive, archive.current_encryption, parallel=parallel, on_progress=on_progress)
            work.run(catalogue.found)
        _print_outcome(work.counts, catalogue.findings(), as_json=as_json)
    raise typer.Exit(FOUND if _left(work.counts) else 0)


COMMANDS: Final = (migrate, encrypt)
