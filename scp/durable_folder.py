"""Small files that survive a power cut: written aside, synced, then given their name.

    <folder>/incoming/<random>   being written; what a crash leaves there is swept when the folder is opened
    <folder>/<place>/<name>      whole and on stable storage

A file's place is its state. Several processes may use one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

from config.folder_format import make_durably, sync_folder

_INCOMING: Final = "incoming"
_ABANDONED_AFTER: Final = 3600.0  # seconds; nobody writes a small file for so long


def file_name(*parts: str) -> str:
    """The name under which something with these identifiers is kept: the same for the same ones, and safe in a path."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class DurableFolder:
    """Thread-safe. Names are made by `file_name`, places by us; nothing of a peer's becomes part of a path."""

    def __init__(self, directory: Path, *places: str) -> None:
        """Make the folders that are missing.

        Raises:
            OSError: they cannot be made.
        """
        self.directory = directory
        for place in (_INCOMING, *places):
            make_durably(directory / place)
        self._sweep()

    def add(self, place: str, name: str, content: bytes) -> None:
        """Store a file of a new name; on stable storage when this returns.

        Raises:
            FileExistsError: there is one of this name; nothing was written.
            OSError: the disk failed, or is full.
        """
        with self._written(content) as temporary:
            os.link(temporary, self.directory / place / name)  # unlike rename(2) it never replaces
        sync_folder(self.directory / place)

    def put(self, place: str, name: str, content: bytes) -> None:
        """Store a file, in place of one of the same name; on stable storage when this returns.

        Raises:
            OSError: the disk failed, or is full; what was there before is still there.
        """
        with self._written(content) as temporary:
            os.rename(temporary, self.directory / place / name)
        sync_folder(self.directory / place)

    def read(self, place: str, name: str) -> bytes | None:
        """The content, or None if there is no such file."""
        try:
            return (self.directory / place / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, place: str, name: str) -> None:
        """Afterwards there is no such file, also after a power cut."""
        (self.directory / place / name).unlink(missing_ok=True)
        sync_folder(self.directory / place)

    def names(self, place: str) -> list[str]:
        """The names of all files in a place, the oldest first; reads the directory once."""
        entries = []
        with os.scandir(self.directory / place) as listing:
            for entry in listing:
                with contextlib.suppress(FileNotFoundError):
                    entries.append((entry.stat().st_mtime_ns, entry.name))
        return [name for _, name in sorted(entries)]

    def count(self, place: str) -> int:
        return len(os.listdir(self.directory / place))

    def changed_at(self, place: str, name: str) -> float:
        """When the file was written, as Unix time; 0 if it is gone."""
        try:
            return (self.directory / place / name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextlib.contextmanager
    def _written(self, content: bytes) -> Iterator[Path]:
        """A synced temporary file, gone afterwards."""
        temporary = self.directory / _INCOMING / uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _sweep(self) -> None:
        for path in (self.directory / _INCOMING).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                    path.unlink()
