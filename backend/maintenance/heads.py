"""The attachment `dicom-until-pixel-data` is the beginning of the DICOM file: if it is lost, the file still has it."""

from __future__ import annotations

from functools import partial
from hashlib import md5
from typing import Final

from backend.maintenance.findings import Finding
from backend.maintenance.patience import patiently
from backend.maintenance.set_up import Archive
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectMissing

_HEAD: Final = "/attachments/dicom-until-pixel-data"
_FILE: Final = "/attachments/dicom"


def rebuilt_head(archive: Archive, finding: Finding) -> tuple[str, bytes] | None:
    """The key of the file's object and the bytes that the index says, or None if this is not to be had from there.

    Without an MD5 in the index nothing would prove that these are the bytes.

    Raises:
        ObjectStoreError, OrthancUnavailable: it could not be found out.
    """
    if not finding.path.endswith(_HEAD) or not finding.md5:
        return None
    file = archive.index.at(finding.path.removesuffix(_HEAD) + _FILE)
    if file is None or file.size < finding.size:
        return None
    key = archive.naming.key(file.name)
    try:
        content = patiently(partial(archive.store.get_range, key, 0, finding.size))
    except (ObjectMissing, ObjectCorrupted):
        return None
    return (key, content) if md5(content, usedforsecurity=False).hexdigest() == finding.md5 else None
