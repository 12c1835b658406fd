"""Which instances somebody has deleted since this process started, told from what Orthanc's removals leave.

    tombstones/<name>, removed/<name>    an attachment that Orthanc has removed; see `backend.spool`

A removal that we have asked Orthanc for looks the same, so who asks has to say so first.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from pathlib import Path

from backend.transfer.owners import Owners


class DeletedSince:
    """For one thread."""

    def __init__(self, spool: Path, owners: Owners, *, earlier: AbstractSet[str]) -> None:
        """What lies there now is of before, and so are the names in `earlier`, whenever they come."""
        self._folders = (spool / "tombstones", spool / "removed")
        self._owners = owners
        self._earlier = {*earlier, *self._buried()}
        self._found: dict[str, set[str]] = {}  # SOPInstanceUID → names
        self._ours: dict[str, set[str]] = {}  # SOPInstanceUID → names

    def expect(self, uid: str, names: AbstractSet[str]) -> None:
        """Orthanc is about to remove these attachments of the instance for us."""
        self._ours.setdefault(uid, set()).update(names)

    def by_others(self, uid: str) -> set[str]:
        """Attachments of this instance that somebody else has deleted: a peer may have sent it again before.

        Lists both folders once, and asks once for the owner of each name.
        """
        for name in self._buried() - self._earlier:
            owner = self._owners.of(name)
            self._earlier.add(name)
            if owner is not None:
                self._found.setdefault(owner, set()).add(name)
        return self._found.get(uid, set()) - self._ours.get(uid, set())

    def _buried(self) -> set[str]:
        return {name for folder in self._folders for name in os.listdir(folder)}
