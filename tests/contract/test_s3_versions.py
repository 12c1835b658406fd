"""A versioned bucket: what is deleted is gone for everybody who reads, and an administrator can bring it back."""

from __future__ import annotations

import uuid

import pytest
from botocore.exceptions import ClientError

from backend.stack.s3_server import S3Server
from backend.transfer.object_store.errors import ObjectMissing
from backend.transfer.object_store.s3 import S3ObjectStore
from tests.contract.test_object_store import BODY, put, read, settings
from tests.servers.real_s3 import RealS3

pytestmark = pytest.mark.timeout(500)  # radosgw's root file system is made once


@pytest.fixture(params=["moto", "radosgw", "seaweedfs"])
def store(request: pytest.FixtureRequest) -> S3ObjectStore:
    bucket = f"bucket-{uuid.uuid4()}"
    if request.param in ("radosgw", "seaweedfs"):
        server: RealS3 = request.getfixturevalue(request.param)
        store = server.store(bucket)
    else:
        moto: S3Server = request.getfixturevalue("moto")
        store = S3ObjectStore(settings(moto.url, bucket), 2)
    store.create_bucket()
    client = store._bucket.client
    try:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    except ClientError as error:
        pytest.skip(f"this server has no versions: {error}")
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        pytest.skip("this server has no versions")
    return store


def test_what_is_deleted_is_missing_and_no_listing_shows_it(store: S3ObjectStore) -> None:
    put(store, "key", BODY)
    store.delete("key")
    store.delete("key")  # a removal that is repeated after a crash
    for look in (store.head, lambda key: read(store, key), lambda key: store.get_range(key, 0, 10)):
        with pytest.raises(ObjectMissing):
            look("key")
    assert list(store.list("")) == []


def test_its_bytes_come_back_when_the_delete_markers_are_deleted(store: S3ObjectStore) -> None:
    put(store, "key", BODY)
    store.delete("key")
    client, bucket = store._bucket.client, store._bucket.name
    for marker in client.list_object_versions(Bucket=bucket)["DeleteMarkers"]:
        client.delete_object(Bucket=bucket, Key=marker["Key"], VersionId=marker["VersionId"])
    assert read(store, "key")[1] == BODY


def test_an_upload_that_is_repeated_is_one_object(store: S3ObjectStore) -> None:
    for _ in range(2):
        put(store, "key", BODY)
    assert [entry.key for entry in store.list("")] == ["key"]
    store.delete("key")
    with pytest.raises(ObjectMissing):
        store.head("key")
