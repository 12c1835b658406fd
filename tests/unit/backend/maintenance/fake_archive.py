"""An index in memory, and the archive around it: for moments that a real Orthanc shows only by chance."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from hashlib import md5, sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from backend.atomic_file import write_digest
from backend.cache import cache_path
from backend.maintenance.index import OrthancIndex
from backend.maintenance.local import LocalFiles
from backend.maintenance.set_up import Archive, Naming
from backend.object_key import attachment_name
from backend.spool import FOLDERS
from backend.storage_directory import storage_path
from config.settings import StorageSettings
from tests.fakes.memory_object_store import MemoryObjectStore


class FakeRest:
    """The routes of `OrthancIndex` over a dictionary: instance → attachment → info."""

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, dict[str, Any]]] = {}
        self.before: Callable[[str], None] = lambda path: None  # called with each path
        self.posted: list[bytes] = []
        self.status = "Success"
        self.system: Any = {"DatabaseBackendPlugin": None}
        self.isen_status: dict[str, Any] | None = {"Storage": {"ObjectStore": {"Bucket": ""}}}

    def add(self, content: bytes, *, instance: str | None = None, attachment: str = "dicom", kind: int = 1) -> str:
        """Index an attachment; returns its name."""
        resource = instance or orthanc_like_id()
        info = {"Uuid": str(uuid.uuid4()), "ContentType": kind, "CompressedSize": len(content)}
        info["CompressedMD5"] = md5(content, usedforsecurity=False).hexdigest()
        self.instances.setdefault(resource, {})[attachment] = info
        return attachment_name(info["Uuid"], kind, legacy=False)

    def forget(self, name: str) -> None:
        """Remove the instance of an attachment."""
        uuid_of = name.partition(".")[0]
        for resource, attachments in list(self.instances.items()):
            if any(info["Uuid"] == uuid_of for info in attachments.values()):
                del self.instances[resource]

    def get(self, path: str) -> Any | None:
        self.before(path)
        parts = urlsplit(path)
        if parts.path == "/isen/status":
            return self.isen_status
        if parts.path == "/system":
            return self.system
        if parts.path == "/statistics":
            return {"CountInstances": len(self.instances)}
        if match := re.fullmatch(r"/instances/([^/]+)/attachments(?:/([^/]+)/info)?", parts.path):
            attachments = self.instances.get(match[1])
            if attachments is None or match[2] is None:
                return None if attachments is None else list(attachments)
            return attachments.get(match[2])
        query = parse_qs(parts.query)
        since, limit = int(query["since"][0]), int(query["limit"][0])
        return list(self.instances)[since : since + limit] if parts.path == "/instances" else []

    def post(self, path: str, body: bytes) -> Any:
        assert path == "/instances"
        self.posted.append(body)
        return {"Status": self.status, "ID": "x"}


def orthanc_like_id() -> str:
    digits = (uuid.uuid4().hex * 2)[:40]
    return "-".join(digits[start : start + 8] for start in range(0, 40, 8))


class FakeArchive:
    """Everything a tool works with."""

    def __init__(self, folder: Path) -> None:
        self.spool, self.cache = folder / "spool", folder / "cache"
        for name in FOLDERS:
            (self.spool / name).mkdir(parents=True)
        settings = StorageSettings.model_validate(
            {"BucketName": "bucket", "Region": "r", "SpoolDirectory": self.spool, "CacheDirectory": self.cache}
        )
        self.rest = FakeRest()
        self.store = MemoryObjectStore()
        index = OrthancIndex(self.rest, legacy=False, parallel=2)  # type: ignore[arg-type]  # the same calls
        self.archive = Archive(index, self.store, LocalFiles(self.spool, self.cache), Naming(settings), "")

    def with_storage_directory(self, folder: Path, *, is_hybrid: bool = True) -> Archive:
        """From now on the archive has a part in this folder of Orthanc's own storage area."""
        local = LocalFiles(self.spool, self.cache, folder)
        self.archive = replace(self.archive, local=local, storage_directory=folder, is_hybrid=is_hybrid)
        return self.archive

    def stored(self, content: bytes, **options: Any) -> str:
        """An attachment in index and bucket; its name, which is its key."""
        name = self.rest.add(content, **options)
        self.put(name, content)
        return name

    def put(self, key: str, content: bytes, *, age: float = 0.0) -> None:
        """An object, put `age` seconds ago."""
        self.store.put(key, BytesIO(content), len(content), sha256(content).digest())
        self.store.modified[key] = time.time() - age

    def local(self, place: str, name: str, content: bytes, digest: bytes | None = None) -> Path:
        """A file in the spool, the cache or the storage directory."""
        path = cache_path(self.cache, name) if place == "cache" else self.spool / place / name
        if place == "storage-directory":
            assert self.archive.storage_directory
            path = storage_path(self.archive.storage_directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        write_digest(path, digest or sha256(content).digest())
        return path


def as_json(document: Any) -> Any:
    """What a reader of `--json` gets."""
    return json.loads(json.dumps(document))
