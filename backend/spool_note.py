"""Which spool an index has been used with, noted beside the index: another SpoolDirectory must not go unnoticed.

    <IndexDirectory>/isen-spool    the path of the spool, one line

What the spool of before still holds has been acknowledged, and nobody else knows of it. Only Orthanc's own index has a
folder; what belongs to one on a database server is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from backend.object_key import is_attachment_name
from config.folder_format import sync_folder

FILE: Final = "isen-spool"
_INDEX: Final = "index"  # Orthanc's SQLite
_LONGEST: Final = 4096  # bytes


def noted_spool(index_directory: Path | None) -> Path | None:
    """The spool that the index was used with last, if that is known."""
    if index_directory is None:
        return None
    try:
        with (index_directory / FILE).open("rb") as file:
            text = os.fsdecode(file.read(_LONGEST)).removesuffix("\n")
    except OSError:
        return None
    return Path(text) if text.startswith("/") else None


def note_spool(index_directory: Path | None, spool: Path) -> None:
    """From now on the index is used with this spool; on stable storage when this returns.

    Raises:
        OSError: it could not be noted.
    """
    spool = Path(os.path.realpath(spool))
    if index_directory is None or not (index_directory / _INDEX).exists() or noted_spool(index_directory) == spool:
        return
    temporary = index_directory / f".{FILE}-new"
    with temporary.open("wb") as file:
        file.write(os.fsencode(spool) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(index_directory / FILE)
    sync_folder(index_directory)


def check_left_behind(index_directory: Path | None, spool: Path) -> list[str]:
    """What keeps Isen from starting with another spool than before, as sentences; nothing is changed."""
    before = noted_spool(index_directory)
    if before is None or before == Path(os.path.realpath(spool)):
        return []
    owed = _count(before / "pending") + _count(before / "received" / "pending", is_ours=lambda _: True)
    removals = _count(before / "tombstones")
    if not owed and not removals:
        return []
    held = f"holds {owed} attachments that S3 does not have yet and {removals} removals"
    remedy = f"name it again until nothing is pending, or move the whole folder to {spool} while Orthanc does not run"
    return [f"Isen.Storage.SpoolDirectory: {before}, the folder until now, {held}; {remedy}"]


def _count(folder: Path, is_ours: Callable[[str], bool] = is_attachment_name) -> int:
    try:
        return sum(map(is_ours, os.listdir(folder)))
    except OSError:
        return 0  # there is none, or nobody can do anything about it here
