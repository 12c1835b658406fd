"""What verification finds, and what it counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What can be wrong with an attachment or an object."""

    MISSING = "missing"  # the index has it; neither bucket nor spool does
    QUARANTINED = "quarantined"  # the only copy was damaged before its upload
    TRUNCATED = "truncated"  # the object has another size than the index says
    CORRUPTED = "corrupted"  # the object has other bytes than were stored
    DAMAGED_FILE = "damaged-file"  # HybridMode: the file in StorageDirectory, which is read first, has other bytes
    UNREADABLE = "unreadable"  # the object takes a key that is not here, or is not encrypted and should be
    ORPHANED = "orphaned"  # the bucket has it, the index does not, and it is not being removed
    STALE_UPLOAD = "stale-upload"  # parts of a multipart upload that nobody completes


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    name: str  # of the attachment
    key: str  # of the object
    found: str  # a sentence
    path: str = ""  # of the attachment in Orthanc's REST API; "" if the index does not have it
    size: int = 0  # bytes: the index's, or the object's if the index does not have it
    md5: str = ""  # the index's
    upload_id: str = ""

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "Kind": self.kind,
            "Attachment": self.name,
            "Key": self.key,
            "Path": self.path or None,
            "Size": self.size,
            "Found": self.found,
        }


@dataclass
class Counts:
    """What was looked at."""

    attachments: int = 0  # of the index
    objects: int = 0  # attachments' objects of the bucket
    object_bytes: int = 0
    foreign: int = 0  # objects whose keys are no attachments' (left alone)
    pending: int = 0  # attachments still in the spool
    removed: int = 0  # objects that are about to be deleted
    young: int = 0  # unreferenced objects within the grace period
    read: int = 0  # objects whose bytes were compared
    read_bytes: int = 0
    archived: int = 0  # objects whose bytes are in an archive class
    only_in_file_system: int = 0  # HybridMode: attachments in StorageDirectory that the bucket does not have

    def document(self) -> dict[str, int]:
        """For `--json`."""
        return {"".join(word.capitalize() for word in name.split("_")): value for name, value in asdict(self).items()}


class Deed(StrEnum):
    """What repair does, or would do, about a finding."""

    UPLOAD = "upload"  # a good copy into the bucket
    REMOVE_FILE = "remove-file"  # a damaged file, so that the object is read; uploaded before if the bucket lacks it
    ADOPT = "adopt"  # an object's image into Orthanc
    DELETE = "delete"  # an orphaned object
    ABORT = "abort"  # a multipart upload
    NOTHING = "nothing"


@dataclass(frozen=True)
class Action:
    """What repair does about one finding, and how that went."""

    finding: Finding
    deed: Deed
    reason: str  # a sentence
    outcome: str = ""  # "" = not done (yet), "done", or why it failed

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.finding.document(), "Deed": self.deed, "Reason": self.reason, "Outcome": self.outcome}
