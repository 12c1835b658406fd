"""Which attributes Orthanc's index holds, by level: its main DICOM tags.

Newer Orthancs name theirs in `GET /system`, those of `ExtraMainDicomTags` included; the table here is what earlier ones
have, which could not be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scp.query.model import Level

MainDicomTags = Mapping[Level, frozenset[int]]

FIXED: Final[MainDicomTags] = {
    Level.PATIENT: frozenset((0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00101000)),
    Level.STUDY: frozenset((
        0x00080020, 0x00080030, 0x00080050, 0x00080080, 0x00080090, 0x00081030, 0x0020000D, 0x00200010, 0x00321032,
        0x00321060,
    )),
    Level.SERIES: frozenset((
        0x00080021, 0x00080031, 0x00080060, 0x00080070, 0x00081010, 0x0008103E, 0x00081070, 0x00180010, 0x00180015,
        0x00180024, 0x00181030, 0x00181090, 0x00181400, 0x0020000E, 0x00200011, 0x00200037, 0x00200105, 0x00201002,
        0x00400254, 0x00540081, 0x00540101, 0x00541000,
    )),
    Level.IMAGE: frozenset((
        0x00080012, 0x00080013, 0x00080018, 0x00200012, 0x00200013, 0x00200032, 0x00200037, 0x00200100, 0x00204000,
        0x00280008, 0x00541330,
    )),
}  # fmt: skip
METADATA: Final = {0x00080016: "SopClassUid", 0x00083002: "TransferSyntax"}  # of instances: tag -> Orthanc's metadata

_NAMES: Final = {Level.PATIENT: "Patient", Level.STUDY: "Study", Level.SERIES: "Series", Level.IMAGE: "Instance"}


def main_dicom_tags(system: Mapping[str, Any]) -> MainDicomTags:
    """The main DICOM tags of the Orthanc whose `GET /system` answered `system`."""
    named = system.get("MainDicomTags")
    if not isinstance(named, Mapping):
        return FIXED
    return {level: frozenset(map(tag_of, filter(None, str(named[name]).split(";")))) for level, name in _NAMES.items()}


def tag_of(name: str) -> int:
    """`gggg,eeee` as a number."""
    return int(name[:4], 16) << 16 | int(name[5:], 16)


def name_of(tag: int) -> str:
    """A tag as `gggg,eeee`."""
    return f"{tag >> 16:04x},{tag & 0xFFFF:04x}"
