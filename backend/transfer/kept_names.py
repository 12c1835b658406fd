"""A folder of the spool whose files are kept for a while after they have served their purpose, then unlinked.

After a power cut Orthanc's index may lack its last seconds: what is in these folders tells which attachments it must
know and which it must not (`reconciliation`).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Final

from backend.atomic_file import DirectorySync

UPLOADED: Final = 60.0  # seconds; SQLite loses ten at most, a slow disk perhaps more
_LEAST_FREE: Final = 64 * 1024 * 1024  # bytes of the disk; a small one keeps a quarter
REMOVED: Final = 120.0  # seconds; longer, so that no file of an attachment outlives the note of its removal


class KeptNames:
    """Knows since when each file is here; a restart begins anew, which keeps them longer. Thread-safe."""

    def __init__(self, folder: Path, seconds: float, *, gives_way: bool = False) -> None:
        """`gives_way`: nothing is kept on a disk that is nearly full; stores come first."""
        self.folder = folder
        self._gives_way = gives_way
        self._seconds = seconds
        self._since = dict.fromkeys(os.listdir(folder), time.monotonic())
        self._lock = threading.Lock()
        self._sync = DirectorySync(folder)
        self._is_held = False

    def hold(self) -> None:
        """Unlink nothing until `let_go`."""
        self._is_held = True

    def let_go(self) -> None:
        self._is_held = False

    def link(self, name: str, source: Path | str) -> None:
        """Give the file at `source` a second name here. Nothing is copied, and the first name may go at any time.

        Raises:
            OSError: the disk cannot; FileNotFoundError: there is no such file.
        """
        try:
            os.link(source, f"{self.folder}/{name}")
        except FileExistsError:
            pass  # its upload was repeated
        self._note(name)

    def take(self, name: str, source: Path) -> None:
        """Rename the file at `source` to here.

        Raises:
            OSError: the disk cannot; FileNotFoundError: there is no such file.
        """
        os.rename(source, self.folder / name)
        self._note(name)

    def drop(self, name: str) -> None:
        """Unlink the file if it is here."""
        with self._lock:
            if self._since.pop(name, None) is not None:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.folder}/{name}")

    def has(self, name: str) -> bool:
        return name in self._since

    def sync(self) -> None:
        """Return when what was done here is on stable storage."""
        self._sync.sync()

    def expire(self) -> None:
        """Unlink what has been here long enough."""
        if self._is_held:
            return
        with self._lock:
            limit = time.monotonic() - (0.0 if self._gives_way and self._is_disk_nearly_full() else self._seconds)
            # the oldest come first, so this costs what expires and not what is kept
            expired = list(takewhile(lambda name: self._since[name] <= limit, self._since))
        for name in expired:
            self.drop(name)

    def _is_disk_nearly_full(self) -> bool:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize < min(_LEAST_FREE, disk.f_blocks * disk.f_frsize // 4)

    def _note(self, name: str) -> None:
        with self._lock:
            self._since.pop(name, None)
            self._since[name] = time.monotonic()
