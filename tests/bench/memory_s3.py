"""The part of S3 that object stores of this project use, in memory: what it stores it has verified.

Buckets by path; objects with user metadata, ranges and listings; multipart uploads; SHA-256 and CRC32 checksums and the
payload hash of the signature, all compared with the bytes that arrived. Signatures themselves are not verified. ETags
are not MD5 sums, as on buckets with KMS encryption, which saves the CPU that a distant server would spend elsewhere.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final
from uuid import uuid4
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.bench.http_server import Answer, Request

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_CHECKSUM: Final = "x-amz-checksum-"
_PAGE: Final = 1000  # entries of one listing, as S3 does
_KEPT: Final = ("content-type",)


class S3Error(Exception):
    """An error document."""

    def __init__(self, status: HTTPStatus, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


@dataclass
class StoredObject:
    """An object or a part of one."""

    body: bytearray
    etag: str
    headers: dict[str, str]  # metadata, content type and checksums
    modified: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))  # as S3: to the second


@dataclass
class Upload:
    """A multipart upload that has not been completed."""

    key: str
    headers: dict[str, str]
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    parts: dict[int, StoredObject] = field(default_factory=dict)


@dataclass
class Bucket:
    """One bucket."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)


class MemoryS3:
    """Answers requests, one at a time."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        try:
            with self._lock:
                return self._route(request)
        except S3Error as error:
            document = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
            return _xml(document, error.status)

    def _route(self, request: Request) -> Answer:
        name, _, key = request.path.lstrip("/").partition("/")
        if not key:
            return self._bucket_request(request, name)
        bucket = self._bucket(name)
        operation = self._operations(request).get(request.method)
        if operation is None:
            raise S3Error(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed")
        return operation(bucket, key, request)

    def _operations(self, request: Request) -> dict[str, Callable[[Bucket, str, Request], Answer]]:
        if "uploadId" in request.query:
            return {"PUT": _upload_part, "POST": _complete, "DELETE": _abort}
        if "uploads" in request.query:
            return {"POST": _begin_upload}
        return {"PUT": _put, "GET": _get, "HEAD": _get, "DELETE": _delete}

    def _bucket_request(self, request: Request, name: str) -> Answer:
        if request.method == "PUT":
            if name in self._buckets:
                raise S3Error(HTTPStatus.CONFLICT, "BucketAlreadyOwnedByYou")
            self._buckets[name] = Bucket()
            return Answer(HTTPStatus.OK)
        bucket = self._bucket(name)
        if request.method == "DELETE":  # with all that is in it, unlike S3
            del self._buckets[name]
            return Answer(HTTPStatus.NO_CONTENT)
        if request.method == "HEAD":
            return Answer(HTTPStatus.OK)
        if request.method == "GET" and "uploads" in request.query:
            return _list_uploads(bucket, request.query.get("prefix", ""))
        if request.method == "GET":
            return _list(bucket, request.query)
        raise S3Error(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed")

    def _bucket(self, name: str) -> Bucket:
        try:
            return self._buckets[name]
        except KeyError:
            raise S3Error(HTTPStatus.NOT_FOUND, "NoSuchBucket", "There is no such bucket") from None


def _stored(request: Request) -> StoredObject:
    """The body with what is kept of the headers, after all that the client says of it has been compared with it."""
    headers, body = request.headers, request.body
    digest = hashlib.sha256(body)
    claimed = headers.get("x-amz-content-sha256", "")
    if len(claimed) == 2 * digest.digest_size and claimed != digest.hexdigest():
        raise S3Error(HTTPStatus.BAD_REQUEST, "XAmzContentSHA256Mismatch", "The body is not what was signed")
    if claimed.startswith("STREAMING-"):
        raise S3Error(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", "aws-chunked bodies are not understood here")
    if "content-md5" in headers and headers["content-md5"] != _base64(
        hashlib.md5(body, usedforsecurity=False).digest()
    ):
        raise S3Error(HTTPStatus.BAD_REQUEST, "BadDigest", "The body does not have this MD5")
    checksums: dict[str, Callable[[], bytes]] = {
        f"{_CHECKSUM}sha256": digest.digest,
        f"{_CHECKSUM}crc32": lambda: zlib.crc32(body).to_bytes(4, "big"),
    }
    for name, compute in checksums.items():
        if name in headers and headers[name] != _base64(compute()):
            raise S3Error(HTTPStatus.BAD_REQUEST, "BadDigest", f"The body does not have this {name}")
    kept = {
        name: value
        for name, value in headers.items()
        if name.startswith("x-amz-meta-") or name in _KEPT or name in checksums
    }
    return StoredObject(body, f'"{digest.hexdigest()[:32]}-0"', kept)


def _put(bucket: Bucket, key: str, request: Request) -> Answer:
    if request.headers.get("if-none-match") == "*" and key in bucket.objects:
        raise S3Error(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
    stored = bucket.objects[key] = _stored(request)
    return Answer(HTTPStatus.OK, headers={"etag": stored.etag, **_checksums(stored)})


def _get(bucket: Bucket, key: str, request: Request) -> Answer:
    stored = bucket.objects.get(key)
    if stored is None:
        raise S3Error(HTTPStatus.NOT_FOUND, "NoSuchKey", "There is no such key")
    headers = {
        "etag": stored.etag,
        "last-modified": format_datetime(stored.modified, usegmt=True),
        "accept-ranges": "bytes",
    }
    headers |= {name: value for name, value in stored.headers.items() if not name.startswith(_CHECKSUM)}
    wanted = request.headers.get("range", "")
    if not wanted.startswith("bytes="):
        return Answer(HTTPStatus.OK, stored.body, headers)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    size = len(stored.body)
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise S3Error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "InvalidRange")
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return Answer(HTTPStatus.PARTIAL_CONTENT, memoryview(stored.body)[start:end], headers)


def _delete(bucket: Bucket, key: str, _request: Request) -> Answer:
    bucket.objects.pop(key, None)
    return Answer(HTTPStatus.NO_CONTENT)


def _list(bucket: Bucket, query: dict[str, str]) -> Answer:
    if query.keys() & {"versions", "location", "lifecycle", "policy"}:
        raise S3Error(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented")
    prefix = query.get("prefix", "")
    keys = sorted((key for key in bucket.objects if key.startswith(prefix)), key=str.encode)
    after = query.get("continuation-token") or query.get("start-after") or ""
    begin = bisect_right(keys, after.encode(), key=str.encode) if after else 0
    limit = min(_PAGE, int(query.get("max-keys", _PAGE)))
    page = keys[begin : begin + limit]
    more = begin + limit < len(keys)
    entries = "".join(_entry(key, bucket.objects[key]) for key in page)
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more and page else ""
    return _xml(
        f'<ListBucketResult xmlns="{_NAMESPACE}"><KeyCount>{len(page)}</KeyCount><MaxKeys>{limit}</MaxKeys>'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
    )


def _entry(key: str, stored: StoredObject) -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{_time(stored.modified)}</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.body)}</Size></Contents>"
    )


def _begin_upload(bucket: Bucket, key: str, request: Request) -> Answer:
    identifier = uuid4().hex
    kept = {name: value for name, value in request.headers.items() if name.startswith("x-amz-meta-") or name in _KEPT}
    bucket.uploads[identifier] = Upload(key, kept)
    return _xml(
        f'<InitiateMultipartUploadResult xmlns="{_NAMESPACE}"><Key>{escape(key)}</Key><UploadId>{identifier}</UploadId>'
        "</InitiateMultipartUploadResult>"
    )


def _upload(bucket: Bucket, key: str, request: Request) -> Upload:
    upload = bucket.uploads.get(request.query["uploadId"])
    if upload is None or upload.key != key:
        raise S3Error(HTTPStatus.NOT_FOUND, "NoSuchUpload", "There is no such upload")
    return upload


def _upload_part(bucket: Bucket, key: str, request: Request) -> Answer:
    part = _upload(bucket, key, request).parts[int(request.query["partNumber"])] = _stored(request)
    return Answer(HTTPStatus.OK, headers={"etag": part.etag, **_checksums(part)})


def _complete(bucket: Bucket, key: str, request: Request) -> Answer:
    upload = _upload(bucket, key, request)
    document = ET.fromstring(bytes(request.body))  # noqa: S314 - from our own clients
    named = [
        (int(part.findtext("{*}PartNumber") or 0), part.findtext("{*}ETag") or "")
        for part in document.iter()
        if part.tag.rpartition("}")[2] == "Part"
    ]
    if not named or any(
        number not in upload.parts or upload.parts[number].etag.strip('"') != etag.strip('"') for number, etag in named
    ):
        raise S3Error(HTTPStatus.BAD_REQUEST, "InvalidPart", "A part is missing or another one than named")
    body = bytearray().join(upload.parts[number].body for number, _ in named)
    etag = f'"{hashlib.sha256(repr(named).encode()).hexdigest()[:32]}-{len(named)}"'
    bucket.objects[key] = StoredObject(body, etag, upload.headers)
    del bucket.uploads[request.query["uploadId"]]
    return _xml(
        f'<CompleteMultipartUploadResult xmlns="{_NAMESPACE}"><Key>{escape(key)}</Key><ETag>{escape(etag)}</ETag>'
        "</CompleteMultipartUploadResult>"
    )


def _abort(bucket: Bucket, key: str, request: Request) -> Answer:
    _upload(bucket, key, request)
    del bucket.uploads[request.query["uploadId"]]
    return Answer(HTTPStatus.NO_CONTENT)


def _list_uploads(bucket: Bucket, prefix: str) -> Answer:
    entries = "".join(
        f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{identifier}</UploadId>"
        f"<Initiated>{_time(upload.begun)}</Initiated></Upload>"
        for identifier, upload in bucket.uploads.items()
        if upload.key.startswith(prefix)
    )
    return _xml(
        f'<ListMultipartUploadsResult xmlns="{_NAMESPACE}"><IsTruncated>false</IsTruncated>{entries}'
        "</ListMultipartUploadsResult>"
    )


def _checksums(stored: StoredObject) -> dict[str, str]:
    return {name: value for name, value in stored.headers.items() if name.startswith(_CHECKSUM)}


def _xml(document: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, document.encode(), {"content-type": "application/xml"})


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()
