"""A large object uploaded in parts: nothing of it is visible before the last step, nothing is left behind if it fails.

The server bills parts of uploads that were never completed, and does not list them as objects. So a failed upload is
aborted at once, and one that a crash left behind is aborted when the same key is uploaded again; no journal is needed.
"""

from __future__ import annotations

import contextlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from hashlib import md5, sha256
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from backend.transfer.object_store.errors import ContentChanged
from backend.transfer.object_store.s3_object import owner_of

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, CompleteMultipartUploadOutputTypeDef

    from backend.transfer.object_store.s3_client import BotoBucket
    from backend.transfer.object_store.s3_options import ObjectOptions

_SMALLEST_PART: Final = 16 * 1024 * 1024  # bytes; S3 asks for 5 MiB at least
_MOST_PARTS: Final = 10_000
_MD5: Final = re.compile(r"[0-9a-f]{32}")

Confirmed = Callable[[Mapping[str, Any], bytes, bytes], bool]


def upload_in_parts(
    bucket: BotoBucket,
    key: str,
    content: BufferedIOBase,
    size: int,
    digest: bytes,
    *,
    options: ObjectOptions,
    confirmed: Confirmed,
) -> bool:
    """Upload `content` and complete it; the caller translates botocore's exceptions.

    `confirmed(headers, digest, body)` judges the answer to each part; the result says whether it was true of all, and
    whether the object was shown to be made of all of them, in their order.

    Raises:
        ContentChanged: the bytes read do not hash to `digest`; the upload was aborted.
        OptionRefused: the server does not encrypt as it was asked to; the upload was aborted.
    """
    _abort_earlier(bucket, key)
    client = bucket.client
    begun = client.create_multipart_upload(
        Bucket=bucket.name,
        Key=key,
        Metadata={"sha256": digest.hex(), "isen-attachment": owner_of(key)},
        ChecksumAlgorithm="SHA256",
        **options.parameters,
    )
    upload_id = begun["UploadId"]
    try:
        options.require_encryption(begun["ResponseMetadata"]["HTTPHeaders"])
        parts, found, all_confirmed = _upload_parts(bucket, upload_id, key, _read_parts(content, size), confirmed)
        if found != digest:
            raise ContentChanged(f"the content for {key} changed while it was uploaded")
        completed = client.complete_multipart_upload(
            Bucket=bucket.name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        with contextlib.suppress(ClientError, BotoCoreError):  # the next attempt aborts it
            client.abort_multipart_upload(Bucket=bucket.name, Key=key, UploadId=upload_id)
        raise
    return all_confirmed and _is_made_of(completed, parts)


def _is_made_of(completed: CompleteMultipartUploadOutputTypeDef, parts: list[CompletedPartTypeDef]) -> bool:
    """Whether the object is these parts in this order: its ETag or checksum is made of theirs, and says how many."""
    count = f"-{len(parts)}"
    etags = [part["ETag"].strip('"') for part in parts]
    if all(_MD5.fullmatch(etag) for etag in etags):
        whole = md5(bytes.fromhex("".join(etags)), usedforsecurity=False).hexdigest()
        if completed["ETag"].strip('"') == whole + count:
            return True
    checksums = sha256(b"".join(b64decode(part["ChecksumSHA256"]) for part in parts)).digest()
    return completed.get("ChecksumSHA256") == b64encode(checksums).decode() + count


def _upload_parts(
    bucket: BotoBucket, upload_id: str, key: str, bodies: Iterator[bytes], confirmed: Confirmed
) -> tuple[list[CompletedPartTypeDef], bytes, bool]:
    """Returns the parts, the SHA-256 of all their bytes, and whether the server confirmed each."""
    whole = sha256()
    parts: list[CompletedPartTypeDef] = []
    all_confirmed = True
    for number, body in enumerate(bodies, 1):
        whole.update(body)
        digest = sha256(body).digest()
        checksum = b64encode(digest).decode()
        answer = bucket.client.upload_part(
            Bucket=bucket.name, Key=key, UploadId=upload_id, PartNumber=number, Body=body, ChecksumSHA256=checksum
        )
        all_confirmed &= confirmed(answer["ResponseMetadata"]["HTTPHeaders"], digest, body)
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
    return parts, whole.digest(), all_confirmed


def _read_parts(content: BufferedIOBase, size: int) -> Iterator[bytes]:
    part_size = max(_SMALLEST_PART, -(-size // _MOST_PARTS))
    content.seek(0)
    while body := content.read(part_size):
        yield body


def _abort_earlier(bucket: BotoBucket, key: str) -> None:
    """Abort uploads of this key that were never completed; only this process uploads it."""
    with contextlib.suppress(ClientError):  # listing them may not be allowed; a lifecycle rule is then what cleans up
        listed = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=key)
        for upload in listed.get("Uploads", []):
            if upload["Key"] == key:
                bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=key, UploadId=upload["UploadId"])
