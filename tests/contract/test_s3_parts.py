"""Uploads in parts leave nothing behind that the provider bills for and no listing shows."""

from __future__ import annotations

import uuid
from hashlib import sha256
from io import BytesIO

import pytest

from backend.stack.s3_server import S3Server
from backend.transfer.object_store.errors import ContentChanged, ObjectMissing
from backend.transfer.object_store.s3 import S3ObjectStore
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
