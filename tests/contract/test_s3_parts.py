"""Uploads in parts leave nothing behind that the provider bills for and no listing shows."""

from __future__ import annotations

import uuid
from base64 import b64encode
from hashlib import md5, sha256
from io import BytesIO

import pytest

from backend.stack.s3_server import S3Server
from backend.transfer.object_store.errors import ContentChanged, ObjectMissing
from backend.transfer.object_store.s3 import S3ObjectStore
from backend.transfer.object_store.s3_multipart import _is_made_of
from tests.contract.test_object_store import LARGE, put, settings


@pytest.fixture
def store(moto: S3Server) -> S3ObjectStore:
    store = S3ObjectStore(settings(moto.url, f"bucket-{uuid.uuid4()}"), 4)
    store.create_bucket()
    return store


def unfinished(store: S3ObjectStore) -> list[str]:
    """Keys of the uploads that were begun and neither completed nor aborted."""
    listed = store._bucket.client.list_multipart_uploads(Bucket=store._bucket.name)
    return [upload["Key"] for upload in listed.get("Uploads", [])]


def test_what_a_crash_left_behind_is_aborted_when_the_key_is_uploaded_again(store: S3ObjectStore) -> None:
    for key in ("large", "large", "large.head"):
        store._bucket.client.create_multipart_upload(Bucket=store._bucket.name, Key=key)
    put(store, "large", bytes(LARGE))
    assert unfinished(store) == ["large.head"]


def test_an_upload_that_fails_in_its_middle_is_aborted(store: S3ObjectStore) -> None:
    class Changing(BytesIO):
        """The second reading, which is the upload's, finds another last byte than the first."""

        readings = 0

        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.readings += offset == 0
            if self.readings == 2:
                self.getbuffer()[LARGE - 1 :] = b"!"
            return super().seek(offset, whence)

    with pytest.raises(ContentChanged):
        store.put("large", Changing(bytes(LARGE)), LARGE, sha256(bytes(LARGE)).digest())
    assert unfinished(store) == []
    with pytest.raises(ObjectMissing):
        store.head("large")


def test_an_object_whose_parts_were_put_together_otherwise_is_found_by_reading_it_back(
    store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part may be right and the whole wrong. moto proves the order by its ETag; take that away."""
    body = bytes(range(256)) * (LARGE // 256 + 1)
    read_back = []
    real = store._read_back

    def noted(key: str, size: int, digest: bytes) -> None:
        read_back.append(key)
        real(key, size, digest)

    monkeypatch.setattr(store, "_read_back", noted)
    put(store, "proved", body)
    assert read_back == []
    monkeypatch.setattr("backend.transfer.object_store.s3_multipart._is_made_of", lambda *_: False)
    put(store, "large", body)
    assert read_back == ["large"]


@pytest.mark.parametrize(
    ("etag", "checksum", "is_proved"),
    [
        ("43d2d4e9fd54c2ee9f8bb95e7b1d5bc8-2", None, False),
        (None, "right-2", True),
        (None, "right-3", False),
        ("right-2", None, True),
        ("right-3", None, False),
    ],
)
def test_parts_in_their_order_are_proved_by_the_etag_or_the_checksum_of_the_whole(
    etag: str | None, checksum: str | None, is_proved: bool
) -> None:
    bodies = (b"first", b"second")
    md5s = [md5(body, usedforsecurity=False) for body in bodies]
    digests = [sha256(body).digest() for body in bodies]
    parts = [
        {"ETag": f'"{one.hexdigest()}"', "ChecksumSHA256": b64encode(digest).decode()}
        for one, digest in zip(md5s, digests, strict=True)
    ]
    right_etag = md5(b"".join(one.digest() for one in md5s), usedforsecurity=False).hexdigest()
    right_checksum = b64encode(sha256(b"".join(digests)).digest()).decode()
    completed = {"ETag": (etag or "x").replace("right", right_etag)}
    if checksum is not None:
        completed["ChecksumSHA256"] = checksum.replace("right", right_checksum)
    assert _is_made_of(completed, parts) is is_proved  # type: ignore[arg-type]  # the fields that are looked at
    opaque = [{**part, "ETag": "encrypted"} for part in parts]
    assert _is_made_of(completed, opaque) is (is_proved and checksum is not None)  # type: ignore[arg-type]
