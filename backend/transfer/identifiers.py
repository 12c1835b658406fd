"""Which study, series and instance a DICOM file says it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import pydicom.config
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

# otherwise it warns of values that break rules of their VR, and a warning quotes them in the log
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

_KEYWORDS: Final = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


class Identifiers(NamedTuple):
    """UIDs; none is empty."""

    study: str
    series: str
    instance: str


def read_identifiers(path: Path) -> Identifiers | None:
    """What the file says, or None if it is no DICOM file or lacks one of them. Reads nothing of the pixel data."""
    try:
        data_set = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
        found = [str(data_set.get(keyword) or "") for keyword in _KEYWORDS]
    except (OSError, InvalidDicomError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, AttributeError):
        return None  # whatever pydicom meets in damaged bytes
    return Identifiers(*found) if all(found) else None
