"""Which scheduled steps modalities have reported: a folder of empty files, which a worklist query looks up by name.

    reported/<SHA-256 of Study Instance UID and Scheduled Procedure Step ID>

The managed worklist is told instead (`scp.performed_procedure.worklist_link`); this is for entries that are not ours to
change, such as those of a folder of `*.wl` files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from scp.durable_folder import DurableFolder, file_name

_REPORTED: Final = "reported"
_CLOCK_TICK: Final = 50_000_000  # nanoseconds, and more than any kernel's


class ReportedSteps:
    """Thread-safe, and shared by the workers."""

    def __init__(self, directory: Path) -> None:
        self._folder = DurableFolder(directory, _REPORTED)
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()
        self._changed_at = 0  # of the folder, when it was listed; nanoseconds, 0 = list it again

    def add(self, steps: Iterable[tuple[str, str]]) -> None:
        """Remember steps by Study Instance UID and Scheduled Procedure Step ID.

        Raises:
            OSError: the disk is full.
        """
        for study, step_id in steps:
            self._folder.put(_REPORTED, file_name(study, step_id), b"")

    def has(self, study: str, step_id: str) -> bool:
        """Whether it was reported; call `refresh` before the first of many."""
        return file_name(study, step_id) in self._names

    def refresh(self) -> None:
        """See what other workers have added; lists the folder only if it has changed."""
        path = self._folder.directory / _REPORTED
        with self._lock:
            changed_at = path.stat().st_mtime_ns
            if changed_at == self._changed_at:
                return
            self._names = frozenset(os.listdir(path))
            # within one tick of the kernel's clock the folder may change twice without being seen to
            is_settled = time.time_ns() - changed_at > _CLOCK_TICK
            self._changed_at = changed_at if is_settled else 0

    def forget_before(self, time_limit: float) -> None:
        """Drop the steps that were last reported before this Unix time."""
        for name in self._folder.names(_REPORTED):
            if self._folder.changed_at(_REPORTED, name) < time_limit:
                self._folder.remove(_REPORTED, name)
