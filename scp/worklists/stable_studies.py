"""Which studies have become stable in Orthanc, from its log of changes: no callback inside Orthanc is needed, and what
happened while nobody looked, or before a restart, is found as well.

    <folder>/state/changes   the number of the last change that was looked at
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scp.durable_folder import DurableFolder
from scp.orthanc_client import OrthancClient

PAGE: Final = 1000  # changes asked for at a time
MAXIMUM_PAGES: Final = 200  # of one look; the rest waits for the next
_STATE: Final = ("state", "changes")


@dataclass(frozen=True)
class StableStudy:
    """What a worklist entry is recognized by."""

    study_instance_uid: str
    patient_id: str
    accession_number: str


class StableStudies:
    """Not thread-safe; one process only."""

    def __init__(self, client: OrthancClient, folder: DurableFolder) -> None:
        """`folder` has the place `state`."""
        self._client = client
        self._folder = folder

    def look(self, handle: Callable[[Sequence[StableStudy]], None]) -> None:
        """Hand on the studies that have become stable since the last look; those of before the first one are left.

        What `handle` has returned from is not handed on again; if it raises, all of that page comes again.

        Raises:
            OrthancError: Orthanc cannot be asked.
        """
        since = self._since()
        if since is None:
            self._remember(self._client.last_change())
            return
        for _ in range(MAXIMUM_PAGES):
            page = self._client.changes(since, PAGE)
            studies = self._studies([change["ID"] for change in page["Changes"] if _is_stable_study(change)])
            if studies:
                handle(studies)
            if page["Changes"]:
                since = int(page["Last"])
                self._remember(since)
            if page["Done"]:
                break
        if not page["Changes"] and self._client.last_change() < since:
            self._remember(self._client.last_change())  # another index, whose changes are numbered from the beginning

    def _studies(self, ids: Sequence[str]) -> list[StableStudy]:
        """Those that still exist and are still stable: a study that grows again will be stable again."""
        if not ids:
            return []
        found = self._client.resources("Study", list(dict.fromkeys(ids)))
        return [
            StableStudy(
                str(one["MainDicomTags"].get("0020,000d", "")),
                str(one.get("PatientMainDicomTags", {}).get("0010,0020", "")),
                str(one["MainDicomTags"].get("0008,0050", "")),
            )
            for one in found
            if one.get("IsStable", True)
        ]

    def _since(self) -> int | None:
        content = self._folder.read(*_STATE)
        return None if content is None else int(content)

    def _remember(self, number: int) -> None:
        self._folder.put(*_STATE, str(number).encode())


def _is_stable_study(change: dict[str, Any]) -> bool:
    return bool(change["ChangeType"] == "StableStudy")
