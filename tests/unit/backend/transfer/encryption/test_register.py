"""A wrong key, or none where one is needed, is noticed before anything is put."""

from __future__ import annotations

import json
import logging

import pytest

from backend.transfer.encryption.register import KeyRegister
from backend.transfer.encryption.store import EncryptedObjectStore, UnencryptedObjectStore
from backend.transfer.object_store.errors import AccessDenied, Unreachable, WrongKey
from tests.fakes.encryption import SECRETS, encrypted, keyring, put, read
from tests.fakes.memory_object_store import MemoryObjectStore

REGISTER = "isen-encryption-keys"


@pytest.fixture
def bucket() -> MemoryObjectStore:
    return MemoryObjectStore()


def known(bucket: MemoryObjectStore) -> dict[str, str]:
    keys: dict[str, str] = json.loads(read(bucket, REGISTER))["Keys"]
    return keys


def test_the_first_put_enters_the_current_key_and_no_secret(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket), "name", b"x")
    assert known(bucket) == {"2026": keyring().check_values()["2026"]}
    for secret in SECRETS.values():
        assert secret not in read(bucket, REGISTER)
        assert secret.hex() not in read(bucket, REGISTER).decode()


def test_a_new_key_is_entered_beside_the_old_one(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket, keyring("2025")), "old", b"x")
    put(encrypted(bucket, keyring("2026")), "new", b"y")
    assert set(known(bucket)) == {"2025", "2026"}
    assert read(encrypted(bucket), "old") == b"x"
    put(encrypted(bucket, keyring("2025")), "back again", b"z")
    assert set(known(bucket)) == {"2025", "2026"}


def test_who_only_tries_leaves_no_key_behind(bucket: MemoryObjectStore) -> None:
    register = KeyRegister("", enters_keys=False)
    put(EncryptedObjectStore(bucket, keyring(), register), "name", b"x")
    assert [listed.key for listed in bucket.list("")] == ["name"]
    put(encrypted(bucket), "name", b"x")
    wrong = keyring(**{"2026": bytes(range(32))})
    with pytest.raises(WrongKey):
        put(EncryptedObjectStore(bucket, wrong, KeyRegister("", enters_keys=False)), "name", b"x")


def test_another_key_of_the_same_id_is_refused_before_anything_is_put(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket), "name", b"x")
    for keys in (
        keyring(**{"2026": bytes(range(32))}),
        keyring("a", **{"a": SECRETS["2025"], "2026": bytes(range(9, 41))}),
    ):
        with pytest.raises(WrongKey, match=r"Keys: not the keys that the bucket was encrypted with: 2026"):
            put(encrypted(bucket, keys), "other", b"x")
    assert [listed.key for listed in bucket.list("")] == [REGISTER, "name"]
    assert WrongKey.concerns_all
    assert not WrongKey.retry_helps  # so that the start is refused


def test_a_key_that_is_not_here_any_more_is_worth_a_warning(
    bucket: MemoryObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(encrypted(bucket, keyring("2025")), "old", b"x")
    with caplog.at_level(logging.WARNING):
        put(encrypted(bucket, keyring(**{"2026": SECRETS["2026"]})), "new", b"y")
    assert "encryption_key_absent ids=2025" in caplog.text


def test_it_is_asked_once(bucket: MemoryObjectStore) -> None:
    for store in (encrypted(bucket), UnencryptedObjectStore(MemoryObjectStore(), KeyRegister(""))):
        put(store, "name", b"x")
        bucket.put_foreign(REGISTER, b"damaged meanwhile")
        put(store, "name", b"x")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"Format": 2, "Keys": {}}', b'{"Format": 1, "Keys": 3}', bytes(2**20 + 1)]
)
def test_a_register_that_cannot_be_read_is_not_overwritten(bucket: MemoryObjectStore, content: bytes) -> None:
    bucket.put_foreign(REGISTER, content)
    with pytest.raises(WrongKey, match="restore it"):
        put(encrypted(bucket), "name", b"x")
    assert read(bucket, REGISTER) == content


def test_without_encryption_an_encrypted_bucket_is_refused(bucket: MemoryObjectStore) -> None:
    put(encrypted(bucket), "name", b"x")
    with pytest.raises(WrongKey, match=r"encrypted with the keys 2026, but Isen\.Storage\.Encryption is missing"):
        put(UnencryptedObjectStore(bucket, KeyRegister("")), "other", b"x")
    put(UnencryptedObjectStore(bucket, KeyRegister("another/root")), "another/root/name", b"x")


def test_who_may_not_list_is_denied_what_is_missing(bucket: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: str) -> None:
        raise AccessDenied("403")

    monkeypatch.setattr(bucket, "get", denied)
    put(encrypted(bucket), "name", b"x")
    put(UnencryptedObjectStore(MemoryObjectStore(), KeyRegister("")), "name", b"x")


def test_while_it_cannot_be_told_nothing_is_put(bucket: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: str) -> None:
        raise Unreachable("no answer")

    store = encrypted(bucket)
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "get", unreachable)
        with pytest.raises(Unreachable):
            put(store, "name", b"x")
    assert list(bucket.list("")) == []
    put(store, "name", b"x")
    assert set(known(bucket)) == {"2026"}
