"""The object store of the settings, put together from its parts in the one place where that is done.

    S3ObjectStore               the bucket
    NativeObjectStore           reads what the native plugin has encrypted, with StorageEncryption
    EncryptedObjectStore        encrypts and decrypts, with Encryption; else
    UnencryptedObjectStore      refuses to take an encrypted bucket for an unencrypted one

The transfer process wraps it further, to see how operations end: `availability.ObservedObjectStore`.
"""

from __future__ import annotations

from datetime import datetime

from backend.transfer.encryption.keys import Keyring, read_key
from backend.transfer.encryption.native import NativeKeys, NativeObjectStore
from backend.transfer.encryption.register import KeyRegister
from backend.transfer.encryption.store import EncryptedObjectStore, UnencryptedObjectStore
from backend.transfer.object_store.protocols import ObjectStore
from backend.transfer.object_store.s3 import S3ObjectStore
from config.settings import EncryptionSettings, StorageSettings, StorageStructure


def open_object_store(settings: StorageSettings, connections: int, *, enters_keys: bool = True) -> ObjectStore:
    """The bucket, for `connections` threads at once; no request is sent yet.

    `enters_keys`: the first put makes a new key known to the bucket; not for those who only try what is configured.

    Raises:
        UnusableSettings: endpoint, bucket name, CA certificates or keys cannot be used.
        CredentialsRefused: there are none.
    """
    return encrypting(S3ObjectStore(settings, connections), settings, enters_keys=enters_keys)


def encrypting(store: ObjectStore, settings: StorageSettings, *, enters_keys: bool = True) -> ObjectStore:
    """`store` with the encryption of the settings in front of it.

    Raises:
        UnusableSettings: a key cannot be used.
    """
    register = KeyRegister(settings.root_path, enters_keys=enters_keys)
    if settings.encryption is None:
        return UnencryptedObjectStore(store, register)
    if settings.storage_encryption:
        option = "StorageEncryption.MasterKey or PreviousMasterKeys"
        sources = settings.storage_encryption.keys
        native = NativeKeys({int(number): read_key(path, option) for number, path in sources.items()})
        legacy = settings.storage_structure is StorageStructure.LEGACY
        store = NativeObjectStore(store, native, legacy=legacy)
    moment = settings.encryption.accept_unencrypted_before
    return EncryptedObjectStore(
        store,
        keyring(settings.encryption),
        register,
        accept_unencrypted_before=datetime.fromisoformat(moment).timestamp() if moment else 0.0,
    )


def keyring(settings: EncryptionSettings) -> Keyring:
    """The keys of the settings.

    Raises:
        UnusableSettings: one of them cannot be used.
    """
    path = "Isen.Storage.Encryption.Keys"
    return Keyring(
        settings.current_key, {name: read_key(source, f"{path}.{name}") for name, source in settings.keys.items()}
    )
