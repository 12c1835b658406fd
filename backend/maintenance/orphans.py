"""What an orphaned object is, from its bytes, and so whether it may be deleted: never the only copy of an image.

An object is orphaned when Orthanc removed its attachment and the deletion failed, when a crash came between storing
and indexing, or when the index is younger or older than the bucket. The last is why its bytes are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from backend.maintenance.content import dicom_file, orthanc_id, read
from backend.maintenance.findings import Finding
from backend.maintenance.patience import patiently
from backend.maintenance.set_up import Archive
from backend.transfer.object_store.errors import ObjectError, ObjectMissing, ObjectOfAnotherKey, ServerFailed


class Nature(Enum):
    """What an orphaned object is."""

    GONE = auto()  # it has been deleted meanwhile
    REFERENCED = auto()  # Orthanc refers to it after all
    DERIVED = auto()  # Orthanc makes it anew from the image
    DUPLICATE = auto()  # Orthanc has this instance, with another object that is in the bucket
    ONLY_COPY = auto()  # Orthanc has this instance, but its object is not in the bucket
    UNKNOWN_INSTANCE = auto()  # an image that Orthanc does not know
    UNREADABLE = auto()  # no image, or damaged


@dataclass(frozen=True)
class Orphan:
    """An orphaned object and what it is."""

    nature: Nature
    reason: str  # a sentence
    dicom: bytes | None = None  # the image that Orthanc does not know


def look_at(archive: Archive, finding: Finding) -> Orphan:  # noqa: PLR0911 - one return for each nature
    """Read an orphaned object and ask Orthanc about it.

    Raises:
        OrthancUnavailable, ObjectStoreError: it cannot be told.
    """
    if finding.name.endswith(".json"):
        return Orphan(Nature.DERIVED, "Orthanc makes it from the image")
    try:
        content = patiently(lambda: read(archive.store, finding.key))
    except ObjectMissing:
        return Orphan(Nature.GONE, "it has been deleted meanwhile")
    except (ObjectError, ServerFailed) as error:
        nature = Nature.ONLY_COPY if isinstance(error, ObjectOfAnotherKey) else Nature.UNREADABLE
        return Orphan(nature, f"it cannot be read: {error}")
    dicom = dicom_file(content)
    instance = orthanc_id(dicom) if dicom is not None else None
    if dicom is None or instance is None:
        return Orphan(Nature.UNREADABLE, "it is no DICOM file, so it cannot be told what it belongs to")
    current = archive.index.of_resource("instances", instance)
    if any(attachment.name == finding.name for attachment in current):
        return Orphan(Nature.REFERENCED, "Orthanc refers to it after all")
    if finding.name.endswith(".head"):
        return Orphan(Nature.DERIVED, "Orthanc makes it from the image")
    if not current:
        return Orphan(Nature.UNKNOWN_INSTANCE, f"it is an image that Orthanc does not know ({instance})", dicom)
    for attachment in current:
        if attachment.attachment == "dicom" and _is_stored(archive, attachment.name, attachment.size):
            return Orphan(Nature.DUPLICATE, f"Orthanc has this image as {attachment.name}")
    return Orphan(Nature.ONLY_COPY, f"Orthanc has this image ({instance}), but not in the bucket")


def _is_stored(archive: Archive, name: str, size: int) -> bool:
    try:
        return patiently(lambda: archive.store.head(archive.naming.key(name))).size == size
    except ObjectError:
        return False  # missing, or not readable
