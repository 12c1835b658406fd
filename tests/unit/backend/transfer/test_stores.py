"""The stack of stores that the settings ask for."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from backend.transfer.encryption.native import NativeObjectStore
from backend.transfer.encryption.store import EncryptedObjectStore, UnencryptedObjectStore
from backend.transfer.object_store.errors import ObjectUnencrypted, UnusableSettings, WrongKey
from backend.transfer.stores import encrypting, open_object_store
from config.settings import StorageSettings
from tests.fakes.encryption import put, read
from tests.fakes.memory_object_store import MemoryObjectStore
from tests.unit.backend.transfer.encryption.test_native import BODY, NAME, native


@pytest.fixture
def key_files(tmp_path: Path) -> dict[str, str]:
    paths = {}
    for number, name in enumerate(("1", "2")):
        path = tmp_path / name
        path.write_text(base64.b64encode(bytes(range(number, number + 32))).decode())
        path.chmod(0o400)
        paths[name] = str(path)
    return paths


def settings(**options: Any) -> StorageSettings:
    return StorageSettings.model_validate(
        {
            "BucketName": "bucket",
            "Region": "us-east-1",
            "Endpoint": "http://127.0.0.1:1",
            "AccessKey": "a",
            "SecretKey": "b",
            "SpoolDirectory": "/nonexistent",
            "CacheDirectory": "/nonexistent",
            **options,
        }
    )


def test_without_encryption_the_bucket_is_read_as_it_is() -> None:
    assert isinstance(open_object_store(settings(), 1), UnencryptedObjectStore)


def test_with_keys_everything_is_encrypted(key_files: dict[str, str]) -> None:
    bucket = MemoryObjectStore()
    store = encrypting(bucket, settings(Encryption={"CurrentKey": "2", "Keys": key_files}, RootPath="root"))
    assert isinstance(store, EncryptedObjectStore)
    put(store, "root/name", b"secret")
    assert b"secret" not in read(bucket, "root/name")
    assert [listed.key for listed in bucket.list("")] == ["root/isen-encryption-keys", "root/name"]
    with pytest.raises(WrongKey):
        put(encrypting(bucket, settings(RootPath="root")), "root/name", b"in the clear")


def test_the_moment_is_that_of_the_settings(key_files: dict[str, str]) -> None:
    bucket = MemoryObjectStore()
    bucket.put_foreign("name", b"old")
    bucket.modified["name"] = 1767322999.0  # 2026-01-02T03:03:19Z
    section = {"CurrentKey": "1", "Keys": key_files}
    with pytest.raises(ObjectUnencrypted):
        read(encrypting(bucket, settings(Encryption=section)), "name")
    for moment, accepted in (("2026-01-02T03:04:05Z", True), ("2026-01-02T03:04:05+01:00", False)):
        store = encrypting(bucket, settings(Encryption={**section, "AcceptUnencryptedBefore": moment}))
        if accepted:
            assert read(store, "name") == b"old"
        else:
            with pytest.raises(ObjectUnencrypted):
                read(store, "name")


@pytest.mark.parametrize("structure", ["flat", "legacy"])
def test_the_native_plugins_keys_read_its_objects(key_files: dict[str, str], structure: str) -> None:
    bucket = MemoryObjectStore()
    bucket.put_foreign(NAME if structure == "legacy" else f"{NAME}.enc", native(BODY))
    store = encrypting(
        bucket,
        settings(
            Encryption={"CurrentKey": "2", "Keys": key_files},
            StorageEncryption={"Keys": {"1": key_files["1"]}},
            StorageStructure=structure,
        ),
    )
    assert read(store, NAME) == BODY
    assert isinstance(store, EncryptedObjectStore)
    assert isinstance(store._store, NativeObjectStore)


def test_a_key_that_cannot_be_used_is_named_by_its_option(key_files: dict[str, str]) -> None:
    with pytest.raises(UnusableSettings, match=r"^Isen\.Storage\.Encryption\.Keys\.3: "):
        open_object_store(settings(Encryption={"CurrentKey": "1", "Keys": {**key_files, "3": "/nowhere"}}), 1)
