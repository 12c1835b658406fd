"""The Query/Retrieve Information Models: their levels, unique keys and SOP classes (PS3.4 C.6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from scp.orthanc_client import Level as OrthancLevel
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal

QUERY_RETRIEVE_LEVEL: Final = 0x00080052


class Level(IntEnum):
    """A higher level has a lower number."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


ORTHANC_LEVELS: Final[dict[Level, OrthancLevel]] = {
    Level.PATIENT: "Patient",
    Level.STUDY: "Study",
    Level.SERIES: "Series",
    Level.IMAGE: "Instance",
}
UNIQUE_KEYS: Final = {
    Level.PATIENT: 0x00100020,
    Level.STUDY: 0x0020000D,
    Level.SERIES: 0x0020000E,
    Level.IMAGE: 0x00080018,
}


@dataclass(frozen=True)
class Root:
    """One information model, and its SOP classes by DIMSE operation."""

    name: str
    top: Level
    bottom: Level
    find: UID
    move: UID
    get: UID

    def level_of(self, identifier: Dataset) -> Level:
        """The Query/Retrieve Level of a request (PS3.4 C.4.1.1.3.1); INSTANCE counts as IMAGE, as with Orthanc.

        Raises:
            Refusal: 0xA900, it is missing, unknown, or not one of this model.
        """
        element = identifier.get(QUERY_RETRIEVE_LEVEL)
        text = str(element.value).strip("\0 ") if element is not None and element.value else ""
        if not text:
            raise Refusal(DATA_SET_DOES_NOT_MATCH, "QueryRetrieveLevel is missing")
        try:
            level = Level["IMAGE" if text == "INSTANCE" else text]
        except KeyError:
            raise Refusal(DATA_SET_DOES_NOT_MATCH, "QueryRetrieveLevel is unknown") from None
        if not self.top <= level <= self.bottom:
            raise Refusal(DATA_SET_DOES_NOT_MATCH, f"no level {level.name} in the {self.name} model")
        return level


def _root(name: str, top: Level, bottom: Level, number: int) -> Root:
    uids = (UID(f"1.2.840.10008.5.1.4.1.2.{number}.{operation}") for operation in (1, 2, 3))
    return Root(name, top, bottom, *uids)


ROOTS: Final = (
    _root("Patient Root", Level.PATIENT, Level.IMAGE, 1),
    _root("Study Root", Level.STUDY, Level.IMAGE, 2),
    _root("Patient/Study Only", Level.PATIENT, Level.STUDY, 3),  # retired in PS3.4-2004, still asked for
)


def root_of(sop_class: UID) -> Root:
    """The model this SOP class belongs to.

    Raises:
        StopIteration: none; the upper layer dispatches only what the services list.
    """
    return next(root for root in ROOTS if sop_class in (root.find, root.move, root.get))
