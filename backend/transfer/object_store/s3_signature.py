"""AWS Signature Version 4 of one S3 request whose payload hash is known already.

botocore's signer hashes the payload itself and takes a request object that is costly to make; here the SHA-256 taken at
`create` is the payload hash, and the signing key of the day is kept. The computation is that of the AWS documentation,
"Authenticating Requests (AWS Signature Version 4)"; tests compare it with botocore's.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

EMPTY_PAYLOAD: Final = sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Keys:
    """Credentials at one moment; the representation shows no secret."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Keys(…)"


class Signature:
    """Signs requests for one region. Thread-safe."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._kept: tuple[str, str, bytes] = ("", "", b"")  # day, secret key, signing key

    def signed(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        payload_hash: str,
        keys: Keys,
        now: float | None = None,
    ) -> dict[str, str]:
        """All headers to send. `headers` have lower-case names and include `host`; `path` is percent-encoded.

        `now` is in seconds since the epoch.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        all_headers = {**headers, "x-amz-date": moment, "x-amz-content-sha256": payload_hash}
        if keys.token:
            all_headers["x-amz-security-token"] = keys.token
        names = sorted(all_headers)
        signed_names = ";".join(names)
        lines = [method, path, "", *(f"{name}:{all_headers[name]}" for name in names), "", signed_names, payload_hash]
        scope = f"{moment[:8]}/{self._region}/s3/aws4_request"
        text = "\n".join((_ALGORITHM, moment, scope, sha256("\n".join(lines).encode()).hexdigest()))
        signature = hmac.digest(self._signing_key(moment[:8], keys.secret_key), text.encode(), "sha256").hex()
        all_headers["authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={signed_names}, Signature={signature}"
        )
        return all_headers

    def _signing_key(self, day: str, secret_key: str) -> bytes:
        kept_day, kept_secret, key = self._kept
        if (kept_day, kept_secret) != (day, secret_key):
            key = f"AWS4{secret_key}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._kept = day, secret_key, key  # one assignment: threads never see half of it
        return key
