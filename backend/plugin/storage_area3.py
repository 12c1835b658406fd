"""Orthanc's storage callbacks of the third kind: ranges are read, and custom data is kept in Orthanc's index.

Every callback answers with an error code, because an exception would reach nobody but the log; what happened and what
to do is one log line. What was stored through the callbacks of `storage_area` has no custom data and is read all the
same, and what is stored here can be read by those.
"""

from __future__ import annotations

from typing import Any

from backend.custom_data import CustomData, NotOurCustomData
from backend.object_key import attachment_name, object_key
from backend.plugin.attachments import Attachments, CorruptedAttachment
from backend.plugin.storage_area import creation
from backend.plugin.transfer_client import TransferError
from backend.spool import SpoolFull, SpoolSuspect


class StorageArea3:
    """The three callbacks of `orthanc.RegisterStorageArea3`."""

    def __init__(self, host: Any, attachments: Attachments, storage: dict[str, Any]) -> None:
        """`storage` holds the settings of `Isen.Storage` as `python -m config` prints them."""
        self._codes = host.ErrorCode
        self._log_error = host.LogError
        self._attachments = attachments
        self._legacy = storage["StorageStructure"] == "legacy"
        self._root_path = storage["RootPath"]
        self._store = creation(attachments, storage)
        self.keeps_custom_data = False  # whether the index can; known once Orthanc has opened it

    def create(
        self, uuid: str, content_type: int, _compression: int, content: bytes, _instance: Any
    ) -> tuple[int, bytes | None]:
        """Store one attachment; what that means is `creation`."""
        name = attachment_name(uuid, content_type, legacy=self._legacy)
        try:
            custom = CustomData.of(content, object_key(name, root_path=self._root_path, legacy=self._legacy))
            self._store(name, content, custom.digest)
        except Exception as error:  # noqa: BLE001 -- the boundary: Orthanc gets a code, whatever it was
            return self._failed("store", name, error), None
        # None, not b"": empty custom data is an error to the Python plugin
        return self._codes.SUCCESS, custom.encode() if self.keeps_custom_data else None

    def read_range(self, uuid: str, content_type: int, start: int, size: int, custom_data: bytes) -> tuple[int, bytes]:
        """`size` bytes from `start`; a whole read is one that asks for all."""
        name = attachment_name(uuid, content_type, legacy=self._legacy)
        known = None
        try:
            known = CustomData.decode(custom_data)
            content = self._attachments.read_range(name, start, start + size, known)
        except Exception as error:  # noqa: BLE001 -- the boundary: Orthanc gets a code, whatever it was
            return self._failed("read", name, error, known), b""
        if len(content) != size:
            self._log_error(f"read_failed name={name} error=range start={start} size={size}")
            return self._codes.BAD_RANGE, b""
        return self._codes.SUCCESS, content

    def remove(self, uuid: str, content_type: int, _custom_data: bytes) -> int:
        """Orthanc has already dropped it from its index."""
        name = attachment_name(uuid, content_type, legacy=self._legacy)
        try:
            self._attachments.remove(name)
        except Exception as error:  # noqa: BLE001 -- the boundary: Orthanc gets a code, whatever it was
            return self._failed("remove", name, error)
        return int(self._codes.SUCCESS)

    def _failed(self, operation: str, name: str, error: Exception, known: CustomData | None = None) -> int:
        kind = getattr(error, "kind", type(error).__name__)
        key = f" key={known.key}" if known else ""
        self._log_error(f"{operation}_failed name={name}{key} error={kind} reason={error}")
        return self._code(error, operation)

    def _code(self, error: Exception, operation: str) -> int:
        """Orthanc's code, which its REST API answers as `OrthancStatus`."""
        codes = self._codes
        match error:
            case SpoolFull():
                code = codes.FULL_STORAGE
            case CorruptedAttachment() | TransferError(kind="corrupted"):
                code = codes.CORRUPTED_FILE
            case TransferError(kind="missing"):
                code = codes.INEXISTENT_FILE
            case TransferError(kind="timeout"):
                code = codes.TIMEOUT
            case SpoolSuspect():
                code = codes.CANNOT_WRITE_FILE
            case OSError() if error.errno is not None and operation != "read":
                code = codes.CANNOT_WRITE_FILE
            case MemoryError():
                code = codes.NOT_ENOUGH_MEMORY
            case TransferError() | NotOurCustomData() | OSError():
                code = codes.STORAGE_AREA_PLUGIN
            case _:
                code = codes.PLUGIN
        return int(code)
