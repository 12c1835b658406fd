"""S3's error codes, HTTP statuses and broken connections, translated into `errors`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from backend.transfer.object_store.errors import (
    AccessDenied,
    BucketMissing,
    BucketUnusable,
    ClockSkewed,
    CredentialsRefused,
    ObjectArchived,
    ObjectCorrupted,
    ObjectMissing,
    ObjectStoreError,
    RequestRefused,
    ServerFailed,
    Throttled,
    Unreachable,
)

_BY_CODE: Final[dict[str, type[ObjectStoreError]]] = {
    "NoSuchKey": ObjectMissing,
    "NoSuchBucket": BucketMissing,
    "PermanentRedirect": BucketUnusable,
    "AuthorizationHeaderMalformed": BucketUnusable,  # the region is wrong
    "IllegalLocationConstraintException": BucketUnusable,
    "InvalidBucketName": BucketUnusable,
    "AccessDenied": AccessDenied,
    "AllAccessDisabled": AccessDenied,
    "AccountProblem": AccessDenied,
    "InvalidAccessKeyId": CredentialsRefused,
    "SignatureDoesNotMatch": CredentialsRefused,
    "ExpiredToken": CredentialsRefused,
    "InvalidToken": CredentialsRefused,
    "TokenRefreshRequired": CredentialsRefused,
    "RequestTimeTooSkewed": ClockSkewed,
    "InvalidObjectState": ObjectArchived,
    "InvalidRange": ObjectCorrupted,
    "SlowDown": Throttled,
    "SlowDownRead": Throttled,  # MinIO
    "SlowDownWrite": Throttled,
    "ServiceUnavailable": Throttled,
    "Throttling": Throttled,
    "ThrottlingException": Throttled,
    "RequestLimitExceeded": Throttled,
    "TooManyRequests": Throttled,
    "RequestTimeout": Unreachable,  # 400: the body did not come in time
    "TemporaryRedirect": ServerFailed,  # 307: a new bucket's name is not known everywhere yet
    "OperationAborted": ServerFailed,  # 409: another request for the same thing is under way
    "ConditionalRequestConflict": ServerFailed,
}
_BY_STATUS: Final[dict[int, type[ObjectStoreError]]] = {
    301: BucketUnusable,
    307: ServerFailed,
    401: CredentialsRefused,
    403: AccessDenied,
    408: Unreachable,
    409: ServerFailed,
    416: ObjectCorrupted,
    429: Throttled,
    503: Throttled,
}
_REMEDIES: Final[dict[type[ObjectStoreError], str]] = {
    BucketMissing: "create it, or set Isen.Storage.CreateBucket to true, or correct Isen.Storage.BucketName",
    BucketUnusable: "compare Isen.Storage.Region, Endpoint and BucketName with the bucket's",
    AccessDenied: "allow s3:GetObject, s3:PutObject and s3:DeleteObject on the bucket's objects to these credentials",
    CredentialsRefused: "correct Isen.Storage.AccessKey and SecretKey, or renew the credentials",
    ClockSkewed: "set the clock of this machine",
}
_ELEMENT: Final = re.compile(rb"<(Code|Message)>([^<]*)</")
_LONGEST_MESSAGE: Final = 300  # characters


def parse_error(body: bytes) -> tuple[str, str]:
    """Code and message of an S3 error document; empty where there are none."""
    found = {name: text.decode("utf-8", "replace").strip() for name, text in _ELEMENT.findall(body)}
    return found.get(b"Code", ""), found.get(b"Message", "")


def error_for(
    status: int,
    code: str,
    message: str,
    *,
    operation: str,
    key: str | None,
    headers: Mapping[str, str],
    body_is_s3: bool,
) -> ObjectStoreError:
    """The error of an answer that is not success. `body_is_s3`: it came with an S3 document, or with no body at all."""
    error_type = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if error_type is None and status == 404 and body_is_s3:
        error_type = ObjectMissing if key is not None else BucketMissing
    if error_type is None:
        error_type = ServerFailed if status >= 500 or not body_is_s3 else RequestRefused
    what = f"{operation} {key}" if key is not None else operation
    parts = [f"{what} was answered {status} {code}".rstrip()]
    if message:
        parts.append(message[:_LONGEST_MESSAGE].rstrip("."))
    if error_type is ClockSkewed:
        parts.append(_clock_offset(headers))
    if not body_is_s3:
        parts.append("the answer is not S3's: is Isen.Storage.Endpoint right?")
    if error_type in _REMEDIES:
        parts.append(_REMEDIES[error_type])
    error = error_type("; ".join(part for part in parts if part))
    error.code = code
    return error


def _clock_offset(headers: Mapping[str, str]) -> str:
    date = headers.get("date") or headers.get("Date")
    if not date:
        return ""
    try:
        offset = time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return ""
    return f"this machine's clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the server's"
