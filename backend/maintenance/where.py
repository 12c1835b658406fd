"""`isen where`: everywhere an instance's attachments, or one attachment, may be, and what is known of them there."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Final

from backend.maintenance.index import ORTHANC_ID, IndexedAttachment
from backend.maintenance.local import LocalFile, Place
from backend.maintenance.patience import patiently
from backend.maintenance.set_up import Archive
from backend.object_key import DICOM, DICOM_AS_JSON, DICOM_UNTIL_PIXEL_DATA, attachment_name
from backend.transfer.object_store.errors import ObjectMissing
from backend.transfer.object_store.protocols import ObjectAttributes

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NoSuchId(Exception):
    """Neither an Orthanc id of an instance nor the UUID of an attachment, or Orthanc has no such instance."""


@dataclass(frozen=True)
class Whereabouts:
    """Everything known of one attachment."""

    name: str
    key: str
    indexed: IndexedAttachment | None  # None if only its UUID was asked for
    local: tuple[LocalFile, ...]
    stored: ObjectAttributes | None  # None: not in the bucket

    @property
    def is_safe(self) -> bool:
        """Whether its bytes are in the bucket or owed to it, or with HybridMode in StorageDirectory."""
        return self.stored is not None or any(map(self._keeps, self.local))

    def _keeps(self, file: LocalFile) -> bool:
        if file.place is Place.STORAGE_DIRECTORY:
            return self.indexed is None or file.size == self.indexed.size
        return file.place is Place.PENDING

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        stored = self.stored
        return {
            "Attachment": self.name,
            "Path": self.indexed.path if self.indexed else None,
            "Size": self.indexed.size if self.indexed else None,
            "MD5": self.indexed.md5 or None if self.indexed else None,
            "Local": [
                {
                    "Place": file.place,
                    "Path": str(file.path),
                    "Size": file.size,
                    "SHA256": file.digest.hex() if file.digest else None,
                    "AgeSeconds": round(file.age, 1),
                }
                for file in self.local
            ],
            "Key": self.key,
            "Object": stored
            and {
                "Size": stored.size,
                "ETag": stored.etag,
                "SHA256": stored.digest.hex() if stored.digest else None,
                "Encryption": stored.encryption or None,
                "StorageClass": stored.storage_class or "STANDARD",
                "AgeSeconds": round(time.time() - stored.modified, 1),
            },
        }


def look_up(archive: Archive, identifier: str) -> list[Whereabouts]:
    """Every attachment of the instance with this Orthanc id, or the one with this UUID.

    Raises:
        NoSuchId: there is nothing to look for.
        OrthancUnavailable, ObjectStoreError: it cannot be told.
    """
    wanted = identifier.strip().lower()
    if ORTHANC_ID.fullmatch(wanted):
        attachments = archive.index.of_resource("instances", wanted)
        if not attachments:
            raise NoSuchId(f"Orthanc has no instance {wanted}")
        return [_whereabouts(archive, attachment.name, attachment) for attachment in attachments]
    if not _UUID.fullmatch(wanted):
        raise NoSuchId("neither an Orthanc id of an instance (five groups of eight) nor the UUID of an attachment")
    types = (DICOM, DICOM_UNTIL_PIXEL_DATA, DICOM_AS_JSON, 0)
    names = dict.fromkeys(attachment_name(wanted, kind, legacy=archive.naming.legacy) for kind in types)
    found = [_whereabouts(archive, name, None) for name in names]
    # in StorageDirectory every attachment has its UUID as its name, whatever kind it is
    told = [one for one in found if one.stored or any(file.place is not Place.STORAGE_DIRECTORY for file in one.local)]
    return told or found[:1]


def _whereabouts(archive: Archive, name: str, indexed: IndexedAttachment | None) -> Whereabouts:
    key = archive.naming.key(name)
    local = tuple(archive.local.all(name))  # before the bucket: what leaves spool and StorageDirectory is there
    try:
        stored = patiently(lambda: archive.store.head(key))
    except ObjectMissing:
        stored = None
    return Whereabouts(name, key, indexed, local, stored)
