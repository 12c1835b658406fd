"""What the operators' tools have in common: their options, their exit codes, and how they tell of failures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from backend.maintenance.local import FoldersUnreadable
from backend.maintenance.release import StillInUse
from backend.maintenance.rest import OrthancUnavailable
from backend.maintenance.where import NoSuchId
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


@contextmanager
def failures_told() -> Iterator[None]:
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
