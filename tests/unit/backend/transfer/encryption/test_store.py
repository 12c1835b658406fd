"""The encrypting store beyond what every store promises: sizes, digests, keys, and what is not encrypted."""

from __future__ import annotations

import time
from hashlib import sha256
from io import BytesIO

import pytest

from backend.transfer.encryption.envelope import CHUNK, HEADER, stored_size
from backend.transfer.encryption.register import KeyRegister
from backend.transfer.encryption.store import UnencryptedObjectStore
from backend.transfer.object_store.errors import ContentChanged, ObjectCorrupted, ObjectOfAnotherKey, ObjectUnencrypted
from backend.transfer.object_store.protocols import UnfinishedUpload
from tests.fakes.encryption import SECRETS, encrypted, keyring, put, read
from tests.fakes.memory_object_store import MemoryObjectStore

BODY = bytes(range(256)) * 2000


@pytest.fixture
def bucket() -> MemoryObjectStore:
    return MemoryObjectStore()


def test_sizes_and_digests_are_those_of_the_plaintext(bucket: MemoryObjectStore) -> None:
    store = encrypted(bucket)
    put(store, "name", BODY)
    head = store.head("name")
    assert (head.size, head.digest, head.encryption) == (len(BODY), sha256(BODY).digest(), "Isen, key 2026")
    with store.get("name") as found:
        assert found.attributes == head
    inside = bucket.head("name")
    assert inside.size == stored_size(len(BODY))
    assert inside.digest == sha256(read(bucket, "name")).digest()  # the server's checksum is that of what it holds


def test_a_listing_tells_what_sizes_its_content_may_have_and_not_the_register(bucket: MemoryObjectStore) -> None:
    store = encrypted(bucket)
    put(store, "name", BODY)
    (listed,) = store.list("")
    assert listed.may_hold(len(BODY))
    assert not listed.may_hold(stored_size(len(BODY)))  # it is too young to be accepted unencrypted
    (listed,) = encrypted(bucket, accept_before=time.time() + 1).list("")
    assert listed.may_hold(len(BODY))
    assert listed.may_hold(stored_size(len(BODY)))
    assert not listed.may_hold(len(BODY) - 1)
    bucket.put_foreign("short", b"x")
    assert [entry.content_sizes for entry in store.list("short")] == [()]


def test_content_that_is_not_what_its_digest_says_never_leaves(bucket: MemoryObjectStore) -> None:
    with pytest.raises(ContentChanged):
        encrypted(bucket).put("name", BytesIO(BODY), len(BODY), sha256(b"other").digest())
    assert [listed.key for listed in bucket.list("name")] == []


def test_keys_are_rotated_without_touching_what_is_there(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket, keyring("2025")), "old", BODY)
    both = encrypted(bucket, keyring("2026"))
    put(both, "new", BODY)
    assert (both.head("old").encryption, both.head("new").encryption) == ("Isen, key 2025", "Isen, key 2026")
    assert read(both, "old") == read(both, "new") == BODY


def test_an_object_of_a_key_that_is_not_here_is_no_corruption(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket, keyring("2025")), "old", BODY)
    later = encrypted(bucket, keyring(**{"2026": SECRETS["2026"]}))
    for attempt in (lambda: read(later, "old"), lambda: later.head("old"), lambda: later.get_range("old", 0, 1)):
        with pytest.raises(ObjectOfAnotherKey, match="'2025'"):
            attempt()


def test_an_object_of_the_wrong_size_is_corrupted(bucket: MemoryObjectStore) -> None:
    store = encrypted(bucket)
    put(store, "name", BODY)
    bucket.put_foreign("name", read(bucket, "name")[:-1])
    with pytest.raises(ObjectCorrupted, match="bytes in the bucket"):
        store.head("name")
    with pytest.raises(ObjectCorrupted), store.get("name"):
        pass
    with pytest.raises(ObjectCorrupted):
        store.get_range("name", 0, len(BODY) + 1)
    assert store.get_range("name", 0, 10) == BODY[:10]  # these are authentic all the same


@pytest.mark.parametrize("size", [0, 10, HEADER - 1, HEADER, CHUNK * 2])
def test_an_unencrypted_object_is_refused_unless_it_is_old_enough(bucket: MemoryObjectStore, size: int) -> None:
    """The server says when an object was changed: who replaces an encrypted one cannot make it look old."""
    body = bytes(size)
    bucket.put_foreign("name", body, sha256(body).digest())
    modified = bucket.modified["name"] = time.time() - 1000
    ranged = (0, min(1, size))
    for accept_before in (0.0, modified):
        strict = encrypted(bucket, accept_before=accept_before)
        for attempt in (
            lambda s=strict: read(s, "name"),
            lambda s=strict: s.head("name"),
            lambda s=strict: s.get_range("name", *ranged),
        ):
            with pytest.raises(ObjectUnencrypted, match="AcceptUnencryptedBefore"):
                attempt()
    tolerant = encrypted(bucket, accept_before=modified + 1)
    assert read(tolerant, "name") == body
    assert tolerant.head("name").digest == sha256(body).digest()
    assert tolerant.get_range("name", *ranged) == body[:1]
    bucket.modified["name"] = 0.0  # a server that does not say when
    with pytest.raises(ObjectUnencrypted):
        read(tolerant, "name")


def test_without_keys_encrypted_bytes_are_not_taken_for_an_image(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket), "name", BODY)
    bucket.put_foreign("plain", BODY)
    bucket.put_foreign("empty", b"")
    store = UnencryptedObjectStore(bucket, KeyRegister(""))
    with pytest.raises(ObjectOfAnotherKey, match="names no keys"):
        read(store, "name")
    assert (read(store, "plain"), read(store, "empty")) == (BODY, b"")
    assert store.head("plain").size == len(BODY)
    assert store.get_range("plain", 1, 5) == BODY[1:5]
    assert [listed.key for listed in store.list("")] == ["empty", "name", "plain"]


def test_everything_else_is_passed_on() -> None:
    bucket = MemoryObjectStore(bucket_exists=False)
    for store in (encrypted(bucket), UnencryptedObjectStore(bucket, KeyRegister(""))):
        store.create_bucket()
        upload = UnfinishedUpload("key", "1", 0.0)
        bucket.uploads.append(upload)
        assert list(store.list_uploads("")) == [upload]
        store.abort_upload(upload)
        assert bucket.uploads == []
        assert store.verifies_checksums("key") == bucket.verifies_checksums("key")
        bucket.put_foreign("key", b"")
        store.delete("key")
        assert list(bucket.list("")) == []
