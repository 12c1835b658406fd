"""An object store in this process's memory: the contract's reference, and the store of unit tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5, sha256
from io import BufferedIOBase
from typing import TYPE_CHECKING

from backend.transfer.object_store.errors import BucketMissing, ContentChanged, ObjectCorrupted, ObjectMissing
from backend.transfer.object_store.protocols import ListedObject, ObjectAttributes, UnfinishedUpload

if TYPE_CHECKING:
    from config.http.asked import Asked

_CHUNK = 64 * 1024  # bytes


class MemoryObjectStore:
    """Keeps objects in a dictionary. Thread-safe."""

    def __init__(self, *, bucket_exists: bool = True) -> None:
        self._lock = threading.Lock()
        self._bucket_exists = bucket_exists
        self._objects: dict[str, tuple[bytes, bytes | None]] = {}
        self.modified: dict[str, float] = {}  # Unix time by key; a test may make objects older
        self.uploads: list[UnfinishedUpload] = []  # a test may add some; this store itself leaves none

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        content.seek(0)
        body = content.read(size)
        if sha256(body).digest() != digest:
            raise ContentChanged(f"the content for {key} is not what its digest says")
        with self._lock:
            self._require_bucket()
            self._objects[key] = body, digest
            self.modified[key] = time.time()

    def verifies_checksums(self, key: str) -> bool:
        return True

    def put_foreign(self, key: str, body: bytes, digest: bytes | None = None) -> None:
        """As somebody else would: with no digest, or with a wrong one."""
        with self._lock:
            self._objects[key] = body, digest
            self.modified[key] = time.time()

    def ask(self, key: str, *, may_connect: bool = False) -> Asked | None:
        return None

    @contextmanager
    def get(self, key: str, asked: Asked | None = None) -> Iterator[_OpenMemoryObject]:
        yield _OpenMemoryObject(*self._find(key), self.modified.get(key, 0.0))

    def get_range(self, key: str, start: int, end: int) -> bytes:
        body, _ = self._find(key)
        if end > len(body):
            raise ObjectCorrupted(f"{key} has {len(body)} bytes, {end} were expected")
        return body[start:end]

    def head(self, key: str) -> ObjectAttributes:
        body, digest = self._find(key)
        return ObjectAttributes(len(body), digest, _etag(body), self.modified[key])

    def delete(self, key: str) -> None:
        with self._lock:
            self._require_bucket()
            self._objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[ListedObject]:
        with self._lock:
            self._require_bucket()
            found = [
                ListedObject(key, len(body), _etag(body), self.modified[key])
                for key, (body, _) in self._objects.items()
                if key.startswith(prefix)
            ]
        yield from sorted(found, key=lambda entry: entry.key.encode())

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        yield from [upload for upload in self.uploads if upload.key.startswith(prefix)]

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        wanted = (upload.key, upload.upload_id)
        self.uploads[:] = [other for other in self.uploads if (other.key, other.upload_id) != wanted]

    def create_bucket(self) -> None:
        self._bucket_exists = True

    def _find(self, key: str) -> tuple[bytes, bytes | None]:
        with self._lock:
            self._require_bucket()
            if key not in self._objects:
                raise ObjectMissing(f"there is no object {key}")
            return self._objects[key]

    def _require_bucket(self) -> None:
        if not self._bucket_exists:
            raise BucketMissing("the bucket does not exist")


class _OpenMemoryObject:
    def __init__(self, body: bytes, digest: bytes | None, modified: float) -> None:
        self._body = body
        self.attributes = ObjectAttributes(len(body), digest, _etag(body), modified)

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _CHUNK):
            yield self._body[start : start + _CHUNK]


def _etag(body: bytes) -> str:
    return md5(body, usedforsecurity=False).hexdigest()
