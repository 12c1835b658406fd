"""Objects that the native plugin has encrypted: made here as its source describes them, and read."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from hypothesis import given
from hypothesis import strategies as st

from backend.transfer.encryption.native import OVERHEAD, NativeKeys, NativeObjectStore
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectMissing, ObjectOfAnotherKey
from backend.transfer.object_store.protocols import ObjectStore
from tests.fakes.encryption import encrypted, put, read
from tests.fakes.memory_object_store import MemoryObjectStore

NAME = "0b6bd1c2-4b2e-4a5d-8f7e-000000000001.dcm"
MASTER = bytes(range(32))
BODY = bytes(range(256)) * 5000  # more than a piece


def native(body: bytes, number: int = 1, master: bytes = MASTER) -> bytes:
    """An object of the format "A1"."""

    def masked(secret: bytes) -> bytes:
        encryptor = Cipher(AES256(master), CTR(bytes(16))).encryptor()
        return encryptor.update(secret) + encryptor.finalize()

    iv, key = os.urandom(32), os.urandom(32)
    prefix = b"A1" + struct.pack("<I", number) + masked(iv) + masked(key)
    encryptor = Cipher(AES256(key), GCM(iv)).encryptor()
    encryptor.authenticate_additional_data(prefix)
    return prefix + encryptor.update(body) + encryptor.finalize() + encryptor.tag


@pytest.fixture
def bucket() -> MemoryObjectStore:
    return MemoryObjectStore()


def reading(bucket: ObjectStore, *, legacy: bool = False) -> NativeObjectStore:
    return NativeObjectStore(bucket, NativeKeys({1: MASTER}), legacy=legacy)


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, len(BODY)])
@pytest.mark.parametrize("legacy", [False, True])
def test_an_object_of_the_native_plugin_is_read_like_others(bucket: MemoryObjectStore, size: int, legacy: bool) -> None:
    """With the flat structure its key has a suffix, with the legacy one it has none."""
    bucket.put_foreign(NAME if legacy else f"{NAME}.enc", native(BODY[:size]))
    store = reading(bucket, legacy=legacy)
    assert read(store, NAME) == BODY[:size]
    head = store.head(NAME)
    assert (head.size, head.digest, head.encryption) == (size, None, "A1, the native plugin's")
    if size:
        assert store.get_range(NAME, size // 2, size) == BODY[size // 2 : size]
    with pytest.raises(ObjectCorrupted):
        store.get_range(NAME, 0, size + 1)
    (listed,) = store.list("")
    assert listed.key == NAME
    assert listed.may_hold(size)


def test_it_is_read_through_encryption_of_ours_whatever_its_age(bucket: MemoryObjectStore) -> None:
    bucket.put_foreign(f"{NAME}.enc", native(BODY))
    store = encrypted(reading(bucket))
    assert read(store, NAME) == BODY
    assert store.head(NAME).encryption == "A1, the native plugin's"
    assert store.get_range(NAME, 5, 500_000) == BODY[5:500_000]
    assert any(listed.may_hold(len(BODY)) for listed in store.list(""))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(place: float, bit: int) -> None:
    body = bytearray(native(BODY[:1000]))
    body[int(place * len(body))] ^= 1 << bit
    bucket = MemoryObjectStore()
    bucket.put_foreign(f"{NAME}.enc", bytes(body))
    with pytest.raises((ObjectCorrupted, ObjectOfAnotherKey)):
        read(reading(bucket), NAME)


@pytest.mark.parametrize("size", [0, 1, 69, 70, 85, OVERHEAD, 1000, OVERHEAD + 999])
def test_a_shorter_object_is_refused(bucket: MemoryObjectStore, size: int) -> None:
    """Where the native plugin itself reads beyond the end of what it has."""
    bucket.put_foreign(f"{NAME}.enc", native(BODY[:1000])[:size])
    with pytest.raises(ObjectCorrupted):
        read(reading(bucket), NAME)
    if size < OVERHEAD:
        with pytest.raises(ObjectCorrupted):
            reading(bucket).head(NAME)


def test_a_master_key_that_is_not_here_is_named(bucket: MemoryObjectStore) -> None:
    bucket.put_foreign(f"{NAME}.enc", native(BODY, number=7))
    with pytest.raises(ObjectOfAnotherKey, match="master key 7"):
        read(reading(bucket), NAME)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("body", [b"", b"A", b"{}", b"A1 is no encrypted object here", b"B1" + bytes(1000)])
def test_other_objects_are_read_as_they_are(bucket: MemoryObjectStore, body: bytes, legacy: bool) -> None:
    store = reading(bucket, legacy=legacy)
    put(store, NAME, body)
    assert read(store, NAME) == body
    assert store.head(NAME).size == len(body)
    assert store.head(NAME).encryption == ""
    if body:
        assert store.get_range(NAME, 0, 1) == body[:1]
    (listed,) = store.list("")
    assert listed.may_hold(len(body))


def test_it_is_not_asked_ahead_because_its_second_request_could_not_be(bucket: MemoryObjectStore) -> None:
    assert reading(bucket).ask("key", may_connect=True) is None


def test_a_missing_object_is_missing(bucket: MemoryObjectStore) -> None:
    for legacy in (False, True):
        store = reading(bucket, legacy=legacy)
        for attempt in (
            lambda s=store: read(s, NAME),
            lambda s=store: s.head(NAME),
            lambda s=store: s.get_range(NAME, 0, 1),
        ):
            with pytest.raises(ObjectMissing):
                attempt()


def test_what_is_put_anew_or_deleted_takes_the_native_object_with_it(bucket: MemoryObjectStore) -> None:
    for act in (lambda store: put(store, NAME, b"new"), lambda store: store.delete(NAME)):
        bucket.put_foreign(f"{NAME}.enc", native(BODY))
        act(reading(bucket))
        assert f"{NAME}.enc" not in [listed.key for listed in bucket.list("")]
    assert list(bucket.list("")) == []


def test_a_listing_names_each_attachment_once_and_leaves_strange_keys_alone(bucket: MemoryObjectStore) -> None:
    for key in (NAME, f"{NAME}.enc", f"{NAME}.head.enc", "strange.enc"):
        bucket.put_foreign(key, bytes(200))
    listed = list(reading(bucket).list(""))
    assert [entry.key for entry in listed] == [NAME, f"{NAME}.head", "strange.enc"]
    assert [entry.size for entry in listed] == [200, 200 - OVERHEAD, 200]


def test_a_large_object_is_decrypted_into_a_file_and_leaves_none(
    bucket: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body = bytes(20 * 1024 * 1024)
    bucket.put_foreign(f"{NAME}.enc", native(body))
    assert read(reading(bucket), NAME) == body
    assert os.listdir(tmp_path) == []
