"""Amazon S3, MinIO, Ceph RGW and whatever else speaks S3.

boto3 finds endpoint, addressing style and credentials, and words what is rare; `S3Connection` puts, gets, heads and
deletes single objects. That the object is what was put rests on this: the SHA-256 that was taken when the content was
accepted is signed as the payload hash and goes with it as `x-amz-checksum-sha256`, so that the server refuses other
bytes; and the answer must carry that checksum. Some servers verify nothing and repeat whatever checksum they were
given. For one that was not seen to refuse a wrong one the content is hashed before anything is sent, and the answer
must have an ETag that is the content's MD5, or the object is read back.
"""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest, md5, sha256
from io import BufferedIOBase, BufferedReader
from typing import TYPE_CHECKING, Any, Final

from backend.transfer.object_store.errors import (
    ClockSkewed,
    ContentChanged,
    CredentialsRefused,
    ObjectCorrupted,
    ObjectStoreError,
    RequestRefused,
    Throttled,
    Unreachable,
)
from backend.transfer.object_store.protocols import ListedObject, ObjectAttributes, UnfinishedUpload
from backend.transfer.object_store.s3_client import BotoBucket, translated
from backend.transfer.object_store.s3_connection import S3Connection
from backend.transfer.object_store.s3_multipart import upload_in_parts
from backend.transfer.object_store.s3_object import DIGEST, OWNER, OpenS3Object, attributes_of, owner_of, require_own
from backend.transfer.object_store.s3_options import ObjectOptions
from backend.transfer.object_store.s3_signature import Signature
from config.http.request import BodyUnreadable, Buffer, FileBody

if TYPE_CHECKING:
    from config.http.asked import Asked
    from config.settings import StorageSettings

_BLOCK: Final = 256 * 1024  # bytes per send; each has the whole time-out for itself
_LARGEST_PUT: Final = 5 * 1024 * 1024 * 1024  # bytes, S3's limit
_IN_MEMORY: Final = 8 * 1024 * 1024  # bytes; a larger content is read twice instead
_CHECKSUM: Final = "x-amz-checksum-sha256"
_RELOAD_INTERVAL: Final = 30.0  # seconds between two looks for other credentials


class S3ObjectStore:
    """One bucket, and one pool of connections to it."""

    def __init__(self, settings: StorageSettings, connections: int) -> None:
        """`connections` is how many threads will use this object at once; no request is sent yet.

        Raises:
            UnusableSettings: endpoint, bucket name or CA certificates cannot be used.
            CredentialsRefused: there are none.
        """
        self._settings = settings
        self._options = ObjectOptions(settings)
        self._connections = connections
        self._reloading = threading.Lock()
        self._etag_is_md5 = True  # until the server shows otherwise
        self._checksums_count = False  # until the server shows that it verifies them
        self._connect()

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        if size > min(self._settings.multipart_threshold, _LARGEST_PUT):
            self._put_in_parts(key, content, size, digest)
            return
        body: memoryview | FileBody | None = None
        is_hashed_there = self._checksums_count and isinstance(content, BufferedReader)
        if is_hashed_there:
            body = FileBody(content.fileno(), size)
        elif size <= _IN_MEMORY:
            content.seek(0)
            body = memoryview(content.read(size))
            if len(body) != size or sha256(body).digest() != digest:
                raise _changed(key)
        else:
            _require_unchanged(key, content, digest)
        headers = {
            DIGEST: digest.hex(),
            OWNER: owner_of(key),
            _CHECKSUM: b64encode(digest).decode(),
            **self._options.headers,
        }
        sending = self._connection.request(
            "PUT",
            "PutObject",
            key,
            headers=headers,
            body=lambda: _pieces(body) if body is not None else _blocks(content, size),
            size=size,
            payload_hash=digest.hex(),
        )
        is_stored = False
        try:
            with self._renewing(), self._options.blamed(), sending as response:
                is_stored = True
                self._options.require_encryption(response.headers)
                is_proven = self._checksums_count and _CHECKSUM in response.headers
                confirmed = self._is_confirmed(
                    response.headers, digest, body if isinstance(body, memoryview) else content
                )
        except BodyUnreadable as failure:
            raise failure.error from None
        except ObjectStoreError as error:
            if is_hashed_there and not isinstance(error, (Unreachable, Throttled, ClockSkewed)):
                self._blame_content(key, content, digest, is_stored=is_stored)  # it may have been our bytes
            raise
        if is_hashed_there and not is_proven:
            self._blame_content(key, content, digest, is_stored=True)
        if not confirmed:
            self._read_back(key, size, digest)

    def _blame_content(self, key: str, content: BufferedIOBase, digest: bytes, *, is_stored: bool) -> None:
        """Raise ContentChanged if the bytes are not those of the digest. What a server has taken of them all the same
        is deleted, and it is trusted no longer.
        """
        try:
            _require_unchanged(key, content, digest)
        except ContentChanged:
            if is_stored:
                self._checksums_count = False
                with suppress(ObjectStoreError):
                    self.delete(key)
            raise

    def verifies_checksums(self, key: str) -> bool:
        body = b"These bytes do not have the checksum they come with. This object may be deleted.\n"
        headers = {_CHECKSUM: b64encode(sha256(b"other bytes").digest()).decode()}
        sending = self._connection.request(
            "PUT",
            "PutObject",
            key,
            headers=headers | dict(self._options.headers),
            body=lambda: (body,),
            size=len(body),
            payload_hash=sha256(body).hexdigest(),
        )
        try:
            with self._renewing(), sending:
                self._checksums_count = False
        except RequestRefused as error:
            self._checksums_count = bool(error.code)  # else it was somebody between
        return self._checksums_count

    def ask(self, key: str, *, may_connect: bool = False) -> Asked | None:
        return self._connection.ask(key, may_connect=may_connect)

    @contextmanager
    def get(self, key: str, asked: Asked | None = None) -> Iterator[OpenS3Object]:
        with self._renewing(), self._connection.request("GET", "GetObject", key, asked=asked) as response:
            yield OpenS3Object(key, response)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        headers = {"range": f"bytes={start}-{end - 1}"}
        with self._renewing(), self._connection.request("GET", "GetObject", key, headers=headers) as response:
            require_own(key, response)
            body = response.read()
        if response.status == 200:  # the server knows no ranges
            body = body[start:end]
        if len(body) != end - start:
            raise ObjectCorrupted(f"{key} ends before byte {end}")
        return body

    def head(self, key: str) -> ObjectAttributes:
        with self._renewing(), self._connection.request("HEAD", "HeadObject", key) as response:
            return attributes_of(key, response)

    def delete(self, key: str) -> None:
        with self._renewing(), self._connection.request("DELETE", "DeleteObject", key):
            pass

    def list(self, prefix: str) -> Iterator[ListedObject]:
        pages = self._bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=prefix)
        with self._renewing(), translated("ListObjectsV2", None):
            for page in pages:
                for entry in page.get("Contents", []):
                    etag = entry.get("ETag", "").strip('"')
                    yield ListedObject(entry["Key"], entry["Size"], etag, entry["LastModified"].timestamp())

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        paginator = self._bucket.client.get_paginator("list_multipart_uploads")
        pages = paginator.paginate(Bucket=self._bucket.name, Prefix=prefix)
        with self._renewing(), translated("ListMultipartUploads", None):
            for page in pages:
                for entry in page.get("Uploads", []):
                    yield UnfinishedUpload(entry["Key"], entry["UploadId"], entry["Initiated"].timestamp())

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        client = self._bucket.client
        with self._renewing(), translated("AbortMultipartUpload", upload.key):
            try:
                client.abort_multipart_upload(Bucket=self._bucket.name, Key=upload.key, UploadId=upload.upload_id)
            except client.exceptions.NoSuchUpload:
                pass

    def create_bucket(self) -> None:
        client = self._bucket.client
        with translated("CreateBucket", None):
            try:
                if self._bucket.region == "us-east-1":  # the one region that must not be named
                    client.create_bucket(Bucket=self._bucket.name)
                else:
                    client.create_bucket(
                        Bucket=self._bucket.name,
                        CreateBucketConfiguration={"LocationConstraint": self._bucket.region},  # type: ignore[typeddict-item]  # a str, not one of the literals
                    )
            except client.exceptions.BucketAlreadyOwnedByYou:
                pass

    def _connect(self) -> None:
        settings = self._settings
        self._bucket = BotoBucket(settings, self._connections)
        self._connected_at = time.monotonic()
        url = self._bucket.url()
        self._connection = S3Connection(
            url,
            self._bucket.route(url),
            Signature(settings.region),
            self._bucket.keys,
            keys_are_fresh=self._bucket.keys_are_fresh,
        )

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Look for other credentials after S3 has refused these: somebody may have replaced them in their file."""
        try:
            yield
        except CredentialsRefused:
            with self._reloading:
                if not self._settings.access_key and time.monotonic() - self._connected_at > _RELOAD_INTERVAL:
                    self._connect()
            raise

    def _put_in_parts(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        _require_unchanged(key, content, digest)
        with self._renewing(), self._options.blamed(), translated("multipart upload of", key):
            confirmed = upload_in_parts(
                self._bucket, key, content, size, digest, options=self._options, confirmed=self._is_confirmed
            )
        stored = self.head(key)
        if stored.size != size:
            raise ObjectCorrupted(f"{key} has {stored.size} bytes in the bucket, {size} were sent")
        if not confirmed:
            self._read_back(key, size, digest)

    def _is_confirmed(self, answer: Mapping[str, Any], digest: bytes, body: Any) -> bool:
        """Whether the answer proves that these bytes arrived; False: it says nothing about them.

        Raises:
            ObjectCorrupted: other bytes arrived.
        """
        checksum = answer.get(_CHECKSUM)
        if checksum not in (None, b64encode(digest).decode()):
            self._checksums_count = False
            raise ObjectCorrupted("the server says that it received other bytes than were sent")
        if checksum is not None and self._checksums_count:
            return True
        if not self._etag_is_md5:
            return False
        if hasattr(body, "seek"):
            body.seek(0)
            computed = file_digest(body, _md5)
        else:
            computed = _md5(body)
        self._etag_is_md5 = answer.get("etag", "").strip('"') == computed.hexdigest()
        return self._etag_is_md5

    def _read_back(self, key: str, size: int, digest: bytes) -> None:
        found = sha256()
        with self.get(key) as stored:
            for chunk in stored.chunks():
                found.update(chunk)
        if stored.attributes.size != size or found.digest() != digest:
            self._etag_is_md5 = True  # it was right
            raise ObjectCorrupted(f"{key} read back from the bucket is not what was sent")


def _changed(key: str) -> ContentChanged:
    return ContentChanged(f"the content for {key} is not what its digest says")


def _require_unchanged(key: str, content: BufferedIOBase, digest: bytes) -> None:
    content.seek(0)
    if file_digest(content, "sha256").digest() != digest:
        raise _changed(key)


def _pieces(body: memoryview | FileBody) -> Iterable[Buffer]:
    if isinstance(body, FileBody):
        return body
    return (body[start : start + _BLOCK] for start in range(0, len(body), _BLOCK))


def _blocks(content: BufferedIOBase, size: int) -> Iterator[bytes]:
    try:
        content.seek(0)
        while size > 0:
            block = content.read(min(size, _BLOCK))
            if not block:
                raise BodyUnreadable(OSError("the content became shorter while it was uploaded"))
            size -= len(block)
            yield block
    except OSError as error:
        raise BodyUnreadable(error) from error


def _md5(data: Any = b"") -> Any:
    return md5(data, usedforsecurity=False)
