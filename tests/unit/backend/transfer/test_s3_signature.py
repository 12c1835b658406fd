from __future__ import annotations

import datetime as dt
from hashlib import sha256
from unittest import mock

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from backend.transfer.object_store.s3_signature import EMPTY_PAYLOAD, Keys, Signature

DAY = 86400.0


def botocores(method: str, path: str, headers: dict[str, str], payload: bytes, *, keys: Keys, now: float) -> str:
    """The Authorization header that botocore makes of the same request."""
    request = AWSRequest(method, f"http://{headers['host']}{path}", headers, payload)
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    signer = auth.S3SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token), "s3", "eu-west-1")
    with mock.patch.object(auth, "get_current_datetime", return_value=moment):
        signer.add_auth(request)
    value: str = request.headers["Authorization"]
    return value


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize(
    ("method", "path", "payload"),
    [("PUT", "/bucket/a.dcm", b"payload"), ("GET", "/bucket/a%20b%2Bc/%C3%A9.dcm", b""), ("DELETE", "/k", b"")],
)
def test_it_is_the_signature_that_botocore_makes(method: str, path: str, payload: bytes, token: str | None) -> None:
    keys = Keys("AKID", "secret/key+", token)
    signature = Signature("eu-west-1")
    headers = {"host": "s3.example.org:9000", "x-amz-meta-sha256": "ab" * 32, "range": "bytes=0-1"}
    for now in (1_700_000_000.0, 1_700_000_001.0, 1_700_000_000.0 + DAY):  # the key of the day is kept, and changed
        signed = signature.signed(method, path, headers, payload_hash=sha256(payload).hexdigest(), keys=keys, now=now)
        assert signed["authorization"] == botocores(method, path, headers, payload, keys=keys, now=now)


def test_other_keys_are_used_at_once() -> None:
    signature = Signature("eu-west-1")
    made = {
        signature.signed("GET", "/", {"host": "h"}, payload_hash=EMPTY_PAYLOAD, keys=Keys("A", secret, None), now=0.0)[
            "authorization"
        ]
        for secret in ("one", "two")
    }
    assert len(made) == 2


def test_keys_do_not_show_themselves() -> None:
    assert "secret" not in repr(Keys("A", "secret", "token-secret"))
