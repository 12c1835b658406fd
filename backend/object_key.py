"""Names of attachments: of their objects in the bucket, and of their files in spool and cache.

The keys are those of Orthanc's own S3 plugin, so that both can read the same bucket:
`{RootPath/}{uuid}.dcm` (structure "flat") or `{RootPath/}{uuid[0:2]}/{uuid[2:4]}/{uuid}` ("legacy").
A file's name is the last part of its object's key.
"""

from __future__ import annotations

import re
from typing import Final

# Orthanc's content types; everything else, user-defined attachments included, arrives as 0
DICOM: Final = 1
DICOM_AS_JSON: Final = 2
DICOM_UNTIL_PIXEL_DATA: Final = 3

_EXTENSIONS: Final = {DICOM: ".dcm", DICOM_AS_JSON: ".json", DICOM_UNTIL_PIXEL_DATA: ".dcm.head"}
NOT_IMAGES: Final = (".dcm.head", ".json", ".unk")  # in a flat structure; a legacy one does not tell
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME: Final = re.compile(_UUID.pattern + r"(\.dcm|\.dcm\.head|\.json|\.unk)?")


def attachment_name(uuid: str, content_type: int, *, legacy: bool) -> str:
    """The file name of an attachment.

    Raises:
        ValueError: `uuid` is not one of Orthanc's; it must not become part of a path.
    """
    if not _UUID.fullmatch(uuid):
        raise ValueError("not an attachment UUID of Orthanc")
    return uuid if legacy else uuid + _EXTENSIONS.get(content_type, ".unk")


def is_attachment_name(name: str) -> bool:
    """Whether a file of this name can be an attachment's; anything else in our folders is somebody's stray file."""
    return _NAME.fullmatch(name) is not None


def object_key(name: str, *, root_path: str, legacy: bool) -> str:
    """The key of the object that holds the attachment of this file name."""
    key = f"{name[0:2]}/{name[2:4]}/{name}" if legacy else name
    return f"{root_path}/{key}" if root_path else key
