"""Which study, series and instance a DICOM file says it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import pydicom.config

from backend.transfer.dicom_header import header_until

# otherwise it warns of values that break rules of their VR, and a warning quotes them in the log
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

_ENOUGH: Final = 1024 * 1024  # bytes that hold them, whatever sequences and private elements come before
_SERIES_INSTANCE_UID: Final = 0x0020000E  # the last of them
_KEYWORDS: Final = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


class Identifiers(NamedTuple):
    """UIDs; none is empty."""

    study: str
    series: str
    instance: str


def read_identifiers(path: Path) -> Identifiers | None:
    """What the file says, or None if it is no DICOM file or lacks one of them. Reads nothing of the pixel data."""
    try:
        with path.open("rb") as file:
            header = header_until(_SERIES_INSTANCE_UID, file.read(_ENOUGH))
    except OSError:
        return None
    if header is None:
        return None
    found = [str(header.get(keyword) or "") for keyword in _KEYWORDS]
    return Identifiers(*found) if all(found) else None
