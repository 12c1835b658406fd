"""Made-up keys, and stores that encrypt with them."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO

from backend.transfer.encryption.keys import Keyring
from backend.transfer.encryption.register import KeyRegister
from backend.transfer.encryption.store import EncryptedObjectStore
from backend.transfer.object_store.protocols import ObjectStore

SECRETS = {"2025": bytes(range(32)), "2026": bytes(range(100, 132))}


def keyring(current: str = "2026", **secrets: bytes) -> Keyring:
    """All of the made-up keys, or those that are given."""
    return Keyring(current, secrets or SECRETS)


def encrypted(store: ObjectStore, keys: Keyring | None = None, *, accept_before: float = 0.0) -> EncryptedObjectStore:
    """`store` behind encryption."""
    register = KeyRegister("")
    return EncryptedObjectStore(store, keys or keyring(), register, accept_unencrypted_before=accept_before)


def put(store: ObjectStore, key: str, body: bytes) -> None:
    store.put(key, BytesIO(body), len(body), sha256(body).digest())


def read(store: ObjectStore, key: str) -> bytes:
    with store.get(key) as found:
        return b"".join(found.chunks())


def flipped(body: bytes, position: int) -> bytes:
    """The same with one bit changed."""
    altered = bytearray(body)
    altered[position] ^= 1
    return bytes(altered)
