"""Which file has taken the place of one that Orthanc has removed: its instance was compressed, say, or reconstructed.

Orthanc writes the new file, commits, and removes the old one, all by one thread. So the plugin notes in the tombstone
which image that thread has created last (`backend.plugin.attachments`). That may as well be another instance's, and
what has taken the place may have been removed since, or replaced again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from backend.object_key import is_attachment_name
from backend.spool import REPLACED_BY

_BURIED: Final = ("tombstones", "removed")


def is_removed(spool: Path, name: str) -> bool:
    """Whether Orthanc has removed the attachment, and nobody has taken that back."""
    return any((spool / folder / name).exists() for folder in _BURIED)


def replacement(spool: Path, name: str) -> str | None:
    """What may have taken the place of a removed attachment, and was not removed itself; None: nothing has."""
    seen = set[str]()
    current: str | None = name
    while current and is_removed(spool, current):
        seen.add(current)
        current = _noted(spool, current)
        if current in seen:
            return None
    return current


def _noted(spool: Path, name: str) -> str | None:
    for folder in _BURIED:
        try:
            noted = os.getxattr(spool / folder / name, REPLACED_BY).decode(errors="replace")
        except OSError:
            continue  # not there, or without a note
        return noted if is_attachment_name(noted) else None
    return None
