"""StorageClass, Tags and ServerSideEncryption go with the object itself, whole or in parts, or it is refused."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from backend.stack.s3_server import S3Server
from backend.transfer.object_store.errors import ObjectStoreError, OptionRefused, RequestRefused
from backend.transfer.object_store.s3 import S3ObjectStore
from config.settings import MEGABYTE, ServerSideEncryption
from tests.contract.test_object_store import BODY, LARGE, put, read, settings
from tests.fakes.s3_faults import BUCKET, FakeS3, refuse_with
from tests.servers.radosgw import KMS_KEY, Radosgw
from tests.servers.real_s3 import RealS3
from tests.servers.seaweedfs import SeaweedFS

pytestmark = pytest.mark.timeout(500)  # radosgw's root file system is made once

TAGS = {"owner": "Röntgen / Süd", "project": "a=b+c", "empty": ""}


def moto_store(moto: S3Server, **options: Any) -> S3ObjectStore:
    store = S3ObjectStore(settings(moto.url, f"bucket-{uuid.uuid4()}", **options), 2)
    store.create_bucket()
    return store


def store_of(server: RealS3, **options: Any) -> S3ObjectStore:
    store = server.store(f"bucket-{uuid.uuid4()}", **options)
    store.create_bucket()
    return store


def stored(store: S3ObjectStore, key: str = "key") -> dict[str, Any]:
    """What the server says of the object."""
    head: dict[str, Any] = dict(store._bucket.client.head_object(Bucket=store._bucket.name, Key=key))
    return head


def tags(store: S3ObjectStore, key: str = "key") -> dict[str, str]:
    answer = store._bucket.client.get_object_tagging(Bucket=store._bucket.name, Key=key)
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


@pytest.mark.parametrize("size", [1000, LARGE])
def test_class_tags_and_key_of_kms_are_those_of_the_settings(moto: S3Server, size: int) -> None:
    store = moto_store(
        moto,
        StorageClass="STANDARD_IA",
        Tags=TAGS,
        ServerSideEncryption=ServerSideEncryption.KMS,
        SseKmsKeyId="alias/images",
        BucketKeyEnabled=True,
    )
    body = bytes(size)
    put(store, "key", body)
    found = stored(store)
    assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", "aws:kms")
    assert found["SSEKMSKeyId"] == "alias/images"
    if size < LARGE:
        assert found["BucketKeyEnabled"]  # moto forgets it of an object made of parts
    assert tags(store) == TAGS
    assert read(store, "key")[1] == body
    assert store.head("key").storage_class == "STANDARD_IA"


@pytest.mark.parametrize("size", [1000, LARGE])
def test_encryption_by_the_key_of_s3(moto: S3Server, size: int) -> None:
    store = moto_store(moto, ServerSideEncryption=ServerSideEncryption.S3)
    put(store, "key", bytes(size))
    assert stored(store)["ServerSideEncryption"] == "AES256"


def test_without_options_nothing_is_asked_for(moto: S3Server) -> None:
    store = moto_store(moto)
    put(store, "key", BODY)
    assert not {"StorageClass", "ServerSideEncryption", "TagCount"} & set(stored(store))
    assert tags(store) == {}


@pytest.mark.parametrize("size", [1000, LARGE])
def test_what_the_server_does_not_know_is_refused_as_an_option(moto: S3Server, size: int) -> None:
    store = moto_store(moto, StorageClass="NO_SUCH_CLASS")
    with pytest.raises(OptionRefused, match=r"InvalidStorageClass.*StorageClass, Tags and ServerSideEncryption"):
        put(store, "key", bytes(size))
    assert not OptionRefused.retry_helps  # so that Orthanc's start is refused
    assert list(store.list("")) == []


def test_ceph_keeps_tags_and_encrypts_by_kms(radosgw: Radosgw) -> None:
    kms = {"ServerSideEncryption": ServerSideEncryption.KMS, "SseKmsKeyId": KMS_KEY}
    store = store_of(radosgw, Tags=TAGS, **kms)
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY
    assert (stored(store)["ServerSideEncryption"], stored(store)["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)
    assert tags(store) == TAGS


@pytest.mark.parametrize(
    "options",
    [
        {"ServerSideEncryption": ServerSideEncryption.S3},  # this radosgw has no key of its own
        {"ServerSideEncryption": ServerSideEncryption.KMS, "SseKmsKeyId": "no-such-key"},
    ],
)
def test_ceph_refuses_keys_that_it_does_not_have(radosgw: Radosgw, options: dict[str, Any]) -> None:
    store = store_of(radosgw, **options)
    with pytest.raises(OptionRefused):
        put(store, "key", BODY)
    assert list(store.list("")) == []


def test_seaweedfs_keeps_tags_and_encrypts_by_its_own_key(seaweedfs: SeaweedFS) -> None:
    store = store_of(seaweedfs, Tags=TAGS, ServerSideEncryption=ServerSideEncryption.S3)
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY
    assert stored(store)["ServerSideEncryption"] == "AES256"
    assert tags(store) == TAGS


def test_parts_that_the_server_does_not_say_it_encrypts_are_refused(seaweedfs: SeaweedFS) -> None:
    """Which is how SeaweedFS 4.48 answers the beginning of such an upload."""
    options = {"ServerSideEncryption": ServerSideEncryption.S3, "MultipartThreshold": 17 * MEGABYTE}
    store = store_of(seaweedfs, **options)
    with pytest.raises(OptionRefused, match="does not say that it has encrypted"):
        put(store, "key", bytes(LARGE))
    assert list(store.list("")) == []


def test_a_server_that_ignores_encryption_is_refused(fake: FakeS3) -> None:
    store = S3ObjectStore(settings(fake.url, BUCKET, ServerSideEncryption=ServerSideEncryption.S3), 1)
    with pytest.raises(OptionRefused, match="does not say that it has encrypted"):
        put(store, "key", BODY)


def test_the_options_are_signed(fake: FakeS3) -> None:
    store = S3ObjectStore(settings(fake.url, BUCKET, StorageClass="STANDARD_IA", Tags=TAGS), 1)
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY


@pytest.mark.parametrize(
    ("code", "options", "error"),
    [
        ("KMS.DisabledException", {"StorageClass": "X"}, OptionRefused),
        ("InvalidArgument", {"StorageClass": "X"}, OptionRefused),
        ("InvalidArgument", {}, RequestRefused),
        ("BadDigest", {"StorageClass": "X"}, RequestRefused),
    ],
)
def test_an_option_is_blamed_only_where_it_can_be_the_cause(
    fake: FakeS3, code: str, options: dict[str, Any], error: type[ObjectStoreError]
) -> None:
    store = S3ObjectStore(settings(fake.url, BUCKET, **options), 1)
    fake.add("PUT", refuse_with(400, code))
    with pytest.raises(ObjectStoreError) as refused:
        put(store, "key", b"x")
    assert type(refused.value) is error
