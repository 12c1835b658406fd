"""Which spool an index has been used with, noted beside the index: another one, or none, must not go unnoticed.

    <IndexDirectory>/isen-spool    the path of the spool and its identity, a line each
    <SpoolDirectory>/identity      the identity: made once, never changed, moved with the folder

What that spool still holds has been acknowledged, and nobody else knows of it. A disk that is not mounted leaves an
empty folder under the same path: what is stored there now vanishes below the mount later. So the identity is compared.
A spool on a file system that does not survive a restart (AllowVolatileSpool) is expected to vanish: none is noted.

Only Orthanc's own index has a folder; what belongs to one on a database server is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from backend.folders import VOLATILE, file_system
from backend.object_key import is_attachment_name
from config.folder_format import sync_folder

FILE: Final = "isen-spool"
IDENTITY: Final = "identity"
_INDEX: Final = "index"  # Orthanc's SQLite
_LONGEST: Final = 4200  # bytes; a path has 4096 at most
_IDENTITY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class NotedSpool:
    """The spool that an index was used with last."""

    path: Path
    identity: str  # empty: it had none, or need not survive a restart


def noted_spool(index_directory: Path | None) -> NotedSpool | None:
    """The spool that the index was used with last, if that is known."""
    text = _read(index_directory / FILE) if index_directory else None
    if text is None or not text.startswith("/"):
        return None
    path, _, identity = text.removesuffix("\n").rpartition("\n")
    if path and _IDENTITY.fullmatch(identity):
        return NotedSpool(Path(path), identity)
    return NotedSpool(Path(text.removesuffix("\n")), "")


def note_spool(index_directory: Path | None, spool: Path) -> None:
    """From now on the index is used with this spool; on stable storage when this returns.

    The spool gets an identity if it has none.

    Raises:
        OSError: it could not be noted.
    """
    spool = Path(os.path.realpath(spool))
    if index_directory is None or not (index_directory / _INDEX).exists():
        return
    note = NotedSpool(spool, "" if file_system(spool) in VOLATILE else _identified(spool))
    if noted_spool(index_directory) != note:
        lines = (os.fspath(note.path), *filter(None, [note.identity]))
        _write(index_directory / FILE, "".join(f"{line}\n" for line in lines))


def check_left_behind(index_directory: Path | None, spool: Path) -> list[str]:
    """What keeps Isen from starting with another spool than before, as sentences; nothing is changed."""
    note = noted_spool(index_directory)
    if note is None or index_directory is None:
        return []
    before, is_elsewhere = note.path, note.path != Path(os.path.realpath(spool))
    problems = _owed(before, spool) if is_elsewhere else []
    if not problems and note.identity and note.identity not in map(_identity, (spool, before)):
        where = f"neither {spool} nor {before}, the folder until now, is" if is_elsewhere else f"{spool} is not"
        remedy = "mount its disk, or name the folder to which it was moved as a whole"
        problems.append(
            f"{where} the spool that this index was used with, whose file {IDENTITY} says {note.identity}; it may hold "
            f"images that S3 does not have: {remedy}. If it is lost, or meant to be another one, remove "
            f"{index_directory / FILE}"
        )
    return [f"Isen.Storage.SpoolDirectory: {problem}" for problem in problems]


def _owed(before: Path, spool: Path) -> list[str]:
    owed = _count(before / "pending") + _count(before / "received" / "pending", is_ours=lambda _: True)
    removals = _count(before / "tombstones")
    if not owed and not removals:
        return []
    held = f"holds {owed} attachments that S3 does not have yet and {removals} removals"
    remedy = f"name it again until nothing is pending, or move the whole folder to {spool} while Orthanc does not run"
    return [f"{before}, the folder until now, {held}; {remedy}"]


def _identified(spool: Path) -> str:
    """The identity of a spool, which is made if there is none."""
    identity = _identity(spool)
    if not identity:
        identity = uuid4().hex
        _write(spool / IDENTITY, f"{identity}\n")
    return identity


def _identity(spool: Path) -> str | None:
    text = (_read(spool / IDENTITY) or "").removesuffix("\n")
    return text if _IDENTITY.fullmatch(text) else None


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return os.fsdecode(file.read(_LONGEST))
    except OSError:
        return None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-new")
    with temporary.open("wb") as file:
        file.write(os.fsencode(text))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def _count(folder: Path, is_ours: Callable[[str], bool] = is_attachment_name) -> int:
    try:
        return sum(map(is_ours, os.listdir(folder)))
    except OSError:
        return 0  # there is none, or nobody can do anything about it here
