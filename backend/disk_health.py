"""Whether a disk still keeps what it confirms: doubted after failed syncs, trusted again after a trial write.

One failed fsync may be an accident, and its file is given up. When several in a row fail, the disk may be losing what
it confirms as well, so nothing more is entrusted to it until a file written for that purpose could be synced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from backend.atomic_file import DirectorySync, SyncFailed, write_new

SUSPECT_AFTER: Final = 3  # failed syncs in a row
_TRIAL: Final = "trial-write"
_TRIAL_SIZE: Final = 64 * 1024  # bytes

Log = Callable[[str], None]


class DiskHealth:
    """Counts failed syncs. Thread-safe, except that one thread at a time may `try_it`."""

    def __init__(self, folder: Path, *, log_error: Log, log_warning: Log) -> None:
        """`folder` takes the trial file."""
        self._folder = folder
        self._log_error = log_error
        self._log_warning = log_warning
        self._failures = 0  # in a row
        self._since = 0.0  # Unix time; 0: not suspect
        self.reason = ""

    @property
    def is_suspect(self) -> bool:
        return self._since > 0

    def succeeded(self) -> None:
        """Something was synced."""
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """Something has failed; only failed syncs count, because other errors concern what has not been written."""
        if not isinstance(error, SyncFailed):
            return
        self._failures += 1
        self.reason = str(error)
        if self._failures >= SUSPECT_AFTER and not self.is_suspect:
            self._since = time.time()
            self._log_error(f"spool_suspect folder={self._folder} reason={error} action=refuse_stores")

    def try_it(self) -> None:
        """Write and sync a file and its directory entry; if that succeeds the disk is trusted again."""
        path = self._folder / _TRIAL
        entries = DirectorySync(self._folder)
        content = os.urandom(_TRIAL_SIZE)
        try:
            path.unlink(missing_ok=True)
            write_new(str(path), content, sha256(content).digest(), durable=True)
            entries.sync()
            path.unlink()
        except OSError as error:
            self.reason = str(error)
            return
        finally:
            entries.close()
        self._failures = 0
        self._since = 0.0
        self._log_warning(f"spool_healthy folder={self._folder} action=accept_stores")

    def report(self) -> dict[str, Any]:
        """For `/isen/status`: the state; if it is suspect, why, and for how many seconds."""
        since = self._since
        if not since:
            return {"State": "Healthy"}
        return {"State": "Suspect", "Reason": self.reason, "SinceSeconds": round(time.time() - since, 1)}
