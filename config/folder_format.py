"""Which version of Isen can work with a folder of ours: said in the folder, checked before anything there is touched.

    <folder>/format    one line: "isen <kind> <version>"

A folder of a later version is refused with a sentence, one of an earlier version is migrated, and one without the file
is empty or of Isen 0.1.0, whose formats were all version 1. Every process that works with such folders uses this
module, Orthanc's interpreter included: standard library only.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

DIGEST_ATTRIBUTE: Final = "user.isen.sha256"  # of files: their SHA-256, 32 bytes, taken before they met a disk
FILE: Final = "format"
_UNVERSIONED: Final = 1
_LINE: Final = re.compile(r"isen ([a-z]+) ([1-9][0-9]{0,8})\n?")
_LONGEST: Final = 100  # bytes


class UnusableFormat(Exception):
    """The folder is not one that this version of Isen can work with; the message says why and what to do."""


@dataclass(frozen=True)
class Format:
    """One kind of folder, as this version of Isen writes it."""

    kind: str
    version: int
    otherwise: str  # what to do with a folder of a later version, besides running that version
    # version → what makes the next one of it; repeated after a crash, so it must bear that
    migrations: Mapping[int, Callable[[Path], None]] = field(default_factory=dict)

    def check(self, folder: Path) -> None:
        """Look whether the folder can be used, made or migrated; changes nothing.

        Raises:
            UnusableFormat: it cannot.
        """
        self._found(folder)

    def adopt(self, folder: Path) -> None:
        """Make the folder, or bring it to this version; on stable storage when this returns.

        Several processes may do this at a time; nobody may be working with the folder yet.

        Raises:
            UnusableFormat: it is none of ours, or a later one; nothing was changed.
            OSError: the disk failed.
        """
        make_durably(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = self._found(folder)
            if found is None:
                found = self.version if _is_empty(folder) else _UNVERSIONED
                self._write(folder, found, descriptor)
            for version in range(found, self.version):
                self.migrations[version](folder)
                self._write(folder, version + 1, descriptor)
        finally:
            os.close(descriptor)

    def _found(self, folder: Path) -> int | None:
        """The version in the folder, or None if it says nothing."""
        path = folder / FILE
        try:
            with path.open("rb") as file:
                text = file.read(_LONGEST).decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnusableFormat(f"{path} cannot be read ({error.strerror}); change its owner or mode") from None
        match = _LINE.fullmatch(text)
        if not match:
            raise UnusableFormat(f"{path} is not what Isen writes there; is {folder} a folder of Isen's {self.kind}?")
        kind, version = match[1], int(match[2])
        if kind != self.kind:
            raise UnusableFormat(f"{folder} holds Isen's {kind}, not its {self.kind}; have two folders been mixed up?")
        if version > self.version:
            raise UnusableFormat(
                f"{folder} is of a later Isen (format {version} of the {kind}; this one knows {self.version}): run "
                f"that version, or {self.otherwise}"
            )
        return version

    def _write(self, folder: Path, version: int, descriptor: int) -> None:
        temporary = folder / f".{FILE}-{uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(f"isen {self.kind} {version}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, folder / FILE)
        finally:
            temporary.unlink(missing_ok=True)
        os.fsync(descriptor)


SPOOL: Final = Format(
    "spool", 1, "let it upload everything (isen_spool_pending_count is 0), stop it, and name another SpoolDirectory"
)
CACHE: Final = Format("cache", 1, "empty the folder, S3 has it all")
COMMITMENTS: Final = Format("commitments", 1, "move the folder away; what is owed a report is then never reported")
PERFORMED_STEPS: Final = Format("mpps", 1, "move the folder away; modalities cannot change the steps it holds then")
ORIGINS: Final = Format("origins", 1, "empty the folder; some instances keep a worker as their origin then")

WORKER_FOLDERS: Final = {"commitments": COMMITMENTS, "mpps": PERFORMED_STEPS, "origins": ORIGINS}  # below the spool's


def formats(spool: Path, cache: Path) -> dict[Path, Format]:
    """Every folder with a format."""
    return {spool: SPOOL, cache: CACHE, **{spool / name: kind for name, kind in WORKER_FOLDERS.items()}}


def adopt_worker_folders(directory: Path) -> None:
    """Make the DICOM workers' folders below `directory`, or bring them to this version.

    Raises:
        UnusableFormat: one of them cannot be used.
    """
    for name, kind in WORKER_FOLDERS.items():
        try:
            kind.adopt(directory / name)
        except OSError as error:
            raise UnusableFormat(f"{directory / name}: {error.strerror}; make it writable for this user") from None


def make_durably(folder: Path) -> None:
    """Make the folder, and those above it, if they are missing: they are still there after a power cut.

    Raises:
        OSError: the disk failed.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path | str) -> None:
    """What was made, renamed or removed in the folder is so after a power cut too.

    Raises:
        OSError: the disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_empty(folder: Path) -> bool:
    return not any(os.scandir(folder))
