"""An object says which attachment it is of: another one in its place is never taken for it, however sound it is."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from backend.stack.s3_server import S3Server
from backend.transfer.object_store.errors import ObjectCorrupted
from backend.transfer.object_store.s3 import S3ObjectStore
from tests.contract.test_object_store import LARGE, put, read, settings
from tests.fakes.transfer_child import name_of

READS: tuple[Callable[[S3ObjectStore, str], object], ...] = (
    read,
    lambda store, key: store.get_range(key, 0, 10),
    lambda store, key: store.head(key),
)


@pytest.fixture
def store(moto: S3Server) -> S3ObjectStore:
    store = S3ObjectStore(settings(moto.url, f"bucket-{uuid.uuid4()}"), 4)
    store.create_bucket()
    return store


def copy(store: S3ObjectStore, source: str, target: str) -> None:
    """Inside the bucket, with everything that belongs to the object."""
    bucket = store._bucket
    bucket.client.copy_object(Bucket=bucket.name, Key=target, CopySource={"Bucket": bucket.name, "Key": source})


@pytest.mark.parametrize("size", [1000, LARGE])
@pytest.mark.parametrize("wrong", READS)
def test_an_object_that_was_copied_over_another_is_refused(
    store: S3ObjectStore, size: int, wrong: Callable[[S3ObjectStore, str], object]
) -> None:
    ours, another = name_of(1), name_of(2)
    put(store, ours, bytes(size))
    put(store, another, b"1" * size)
    copy(store, another, ours)
    with pytest.raises(ObjectCorrupted, match=another.removesuffix(".dcm")):
        wrong(store, ours)


@pytest.mark.parametrize("place", ["root/{}.dcm", "a/b/{}", "{}"])
@pytest.mark.parametrize("right", READS)
def test_an_object_may_move_to_another_prefix_or_structure(
    store: S3ObjectStore, place: str, right: Callable[[S3ObjectStore, str], object]
) -> None:
    moved = place.format(name_of(1, ""))
    put(store, name_of(1), bytes(1000))
    copy(store, name_of(1), moved)
    right(store, moved)


def test_an_object_that_says_nothing_is_read(store: S3ObjectStore) -> None:
    """Earlier versions and the native plugin did not say."""
    store._bucket.client.put_object(Bucket=store._bucket.name, Key=name_of(1), Body=b"1234")
    assert read(store, name_of(1))[1] == b"1234"
