"""A folder that is listed again only when something in it has changed."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

from backend.object_key import is_attachment_name

log = logging.getLogger(__name__)

_SECOND: Final = 1_000_000_000  # nanoseconds
_CLOCK_TICK: Final = _SECOND // 10  # file times move in steps of up to 10 ms
_COARSE_TICK: Final = 3 * _SECOND  # or of whole seconds (ext3, some network file systems), or of two (FAT)


class Folder:
    """Names of attachments in one folder. For one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed = -1  # mtime of the folder at the last listing, in nanoseconds
        self._strays: set[str] = set()

    def changed_names(self) -> set[str] | None:
        """The names, or None if they are the same as last time. Anything that is no attachment's name is left alone.

        Raises:
            OSError: the folder cannot be listed.
        """
        changed = os.stat(self.path).st_mtime_ns
        if changed == self._listed:
            return None
        names = set(os.listdir(self.path))
        # An entry made in the same tick of the clock would leave the folder's time as it is: look again next time.
        tick = _CLOCK_TICK if changed % _SECOND else _COARSE_TICK
        self._listed = changed if time.time_ns() - changed > tick else -1
        strays = {name for name in names if not is_attachment_name(name)}
        if strays - self._strays:
            log.warning("stray_files folder=%s count=%d action=ignore", self.path, len(strays))
        self._strays = strays
        return names - strays
