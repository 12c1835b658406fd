"""Orthanc's storage callbacks: names in, exceptions out, one log line for each failure.

Orthanc turns an exception into a failed store or read: C-STORE answers 0xA700, REST an error. It does not see which
exception, so the log line says what happened and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

from backend.object_key import DICOM, DICOM_UNTIL_PIXEL_DATA, attachment_name
from backend.plugin.attachments import Attachments

Create = Callable[[str, bytes, bytes | None], None]  # name, content, its SHA-256 if known
_LONGEST_HEAD: Final = 64 * 1024  # bytes


class StorageArea:
    """The three callbacks of `orthanc.RegisterStorageArea`.

    Through them Orthanc stores a DICOM file and then, as an attachment of its own, what comes before the pixel data.
    With `Durability` "ObjectStore" the sender waits for S3 once, for the file: its beginning goes through the spool,
    because it can be made again from the object (`isen repair`) should this machine be lost before it is uploaded.
    """

    def __init__(self, host: Any, attachments: Attachments, storage: dict[str, Any]) -> None:
        """`storage` holds the settings of `Isen.Storage` as `python -m config` prints them."""
        self._log_error = host.LogError
        self._attachments = attachments
        self._legacy = storage["StorageStructure"] == "legacy"
        self._store = creation(attachments, storage)
        self._waits_for_s3 = storage["Durability"] == "ObjectStore" and storage["HybridMode"] != "WriteToFileSystem"
        self._confirmed: dict[int, bytes] = {}  # thread → beginning of the file it has just stored; S3 has it

    def create(self, uuid: str, content_type: int, content: bytes) -> None:
        """Store one attachment; what that means is `creation`."""
        name = attachment_name(uuid, content_type, legacy=self._legacy)
        with self._told("store", name):
            if self._waits_for_s3 and self._is_beginning(content_type, content):
                self._attachments.create_in_spool(name, content)
                return
            self._store(name, content, None)
            if self._waits_for_s3 and content_type == DICOM:
                self._confirmed[get_ident()] = content[:_LONGEST_HEAD]

    def read(self, uuid: str, content_type: int) -> bytes:
        """The whole attachment."""
        name = attachment_name(uuid, content_type, legacy=self._legacy)
        with self._told("read", name):
            return self._attachments.read(name)

    def remove(self, uuid: str, content_type: int) -> None:
        """Orthanc has already dropped it from its index."""
        name = attachment_name(uuid, content_type, legacy=self._legacy)
        with self._told("remove", name):
            self._attachments.remove(name)

    def _is_beginning(self, content_type: int, content: bytes) -> bool:
        """Whether it is the beginning of the file that this thread has stored just before: compared, never assumed."""
        if content_type != DICOM_UNTIL_PIXEL_DATA:
            return False
        return self._confirmed.pop(get_ident(), b"").startswith(content)

    def _told(self, operation: str, name: str) -> _Told:
        return _Told(self._log_error, operation, name)


def creation(attachments: Attachments, storage: dict[str, Any]) -> Create:
    """How attachments are stored with these settings: where `HybridMode` says, as safe as `Durability` says."""
    if storage["HybridMode"] == "WriteToFileSystem":
        return attachments.create_in_storage_directory
    if storage["Durability"] == "ObjectStore":
        timeout = float(storage["ObjectStoreTimeout"])
        return lambda name, content, digest: attachments.create_in_object_store(name, content, timeout, digest)
    return attachments.create_in_spool


class _Told:
    """Logs the exception that leaves its block, then lets it go on to Orthanc."""

    def __init__(self, log_error: Callable[[str], None], operation: str, name: str) -> None:
        self._log_error = log_error
        self._operation = operation
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            what = getattr(error, "kind", kind.__name__)
            self._log_error(f"{self._operation}_failed name={self._name} error={what} reason={error}")
