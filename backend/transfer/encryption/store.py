"""An object store whose objects are encrypted before they leave this machine, and verified before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import TYPE_CHECKING

from backend.transfer.encryption.envelope import (
    CHUNK,
    HEADER,
    STORED_CHUNK,
    Envelope,
    is_encrypted,
    plaintext_sizes,
    seal,
    stored_size,
    unseal,
)
from backend.transfer.encryption.keys import Keyring
from backend.transfer.encryption.pieces import peek, pieces
from backend.transfer.encryption.reader import EncryptedContent
from backend.transfer.encryption.register import KeyRegister
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectOfAnotherKey, ObjectUnencrypted
from backend.transfer.object_store.protocols import (
    ListedObject,
    ObjectAttributes,
    ObjectStore,
    OpenObject,
    UnfinishedUpload,
)

if TYPE_CHECKING:
    from config.http.asked import Asked


class EncryptedObjectStore:
    """Encrypts whatever is put; sizes and digests are those of the plaintext, ETags of the stored bytes.

    Unencrypted objects are given as they are if they were last changed before a given moment, and otherwise refused:
    who can write the bucket but has no key could put one in the place of an encrypted one, and the server would say
    that it is new.

    A head costs a small ranged GET as well, a range two ranged GETs; of an unencrypted object one request more.
    """

    def __init__(
        self, store: ObjectStore, keys: Keyring, register: KeyRegister, *, accept_unencrypted_before: float = 0.0
    ) -> None:
        """`accept_unencrypted_before` is in Unix time, of the server's clock; 0 = accept none."""
        self._store = store
        self.ask = store.ask
        self._keys = keys
        self._register = register
        self._accept_before = accept_unencrypted_before

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        """Also raises WrongKey: the bucket knows another key by this id; nothing was written."""
        self._register.require(self._store, self._keys)
        envelope = seal(self._keys.current, _name(key), size, digest)
        encrypted = EncryptedContent(content, envelope, key)
        self._store.put(key, encrypted, encrypted.size, encrypted.digest)

    @contextmanager
    def get(self, key: str, asked: Asked | None = None) -> Iterator[OpenObject]:
        """Also raises ObjectOfAnotherKey and ObjectUnencrypted."""
        with self._store.get(key, asked) as found:
            start, whole = peek(found, HEADER)
            if is_encrypted(start):
                envelope = self._unseal(key, start, found.attributes)
                parts = pieces(whole.chunks(), HEADER, STORED_CHUNK)
                next(parts)
                yield _Decrypted(_decrypted(found.attributes, envelope), envelope, parts)
            else:
                self._require_accepted(key, found.attributes)
                yield whole

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Also raises ObjectOfAnotherKey and ObjectUnencrypted. What it gives of an encrypted object is verified."""
        try:
            header = self._store.get_range(key, 0, HEADER)
        except ObjectCorrupted:
            header = b""  # shorter than a header
        if not is_encrypted(header):
            self._require_accepted(key, self._store.head(key))
            return self._store.get_range(key, start, end)
        envelope = unseal(header, _name(key), self._keys)
        if end > envelope.size:
            raise ObjectCorrupted(f"{key} has {envelope.size} bytes, {end} were expected")
        first, stored_start, stored_end = envelope.place(start, end)
        stored = self._store.get_range(key, stored_start, stored_end)
        plaintext = b"".join(envelope.decrypt_all(first, stored))
        return plaintext[start - first * CHUNK : end - first * CHUNK]

    def head(self, key: str) -> ObjectAttributes:
        """Also raises ObjectOfAnotherKey and ObjectUnencrypted."""
        found = self._store.head(key)
        header = self._store.get_range(key, 0, HEADER) if found.size >= HEADER else b""
        if is_encrypted(header):
            return _decrypted(found, self._unseal(key, header, found))
        self._require_accepted(key, found)
        return found

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """A listing does not tell which objects are encrypted: see `ListedObject.may_hold`."""
        for listed in self._store.list(prefix):
            if listed.key != self._register.key:
                unencrypted = listed.content_sizes
                if unencrypted is None:
                    unencrypted = (listed.size,) if self._is_old(listed.modified) else ()
                yield replace(listed, content_sizes=(*unencrypted, *plaintext_sizes(listed.size)))

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        return self._store.list_uploads(prefix)

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        self._store.abort_upload(upload)

    def verifies_checksums(self, key: str) -> bool:
        return self._store.verifies_checksums(key)

    def create_bucket(self) -> None:
        self._store.create_bucket()

    def _unseal(self, key: str, header: bytes, stored: ObjectAttributes) -> Envelope:
        envelope = unseal(header, _name(key), self._keys)
        if stored.size != stored_size(envelope.size):
            raise ObjectCorrupted(f"{key} has {stored.size} bytes in the bucket, {stored_size(envelope.size)} were put")
        return envelope

    def _require_accepted(self, key: str, found: ObjectAttributes) -> None:
        if not found.encryption and not self._is_old(found.modified):
            raise ObjectUnencrypted(
                f"{key} lies unencrypted in the bucket and was changed too late to be accepted (see "
                "Isen.Storage.Encryption.AcceptUnencryptedBefore): it may have been put there by somebody else"
            )

    def _is_old(self, modified: float) -> bool:
        return 0.0 < modified < self._accept_before  # 0.0: the server does not say


class UnencryptedObjectStore:
    """A store without encryption that does not take the bucket of one with it for its own.

    If the section of the encryption got lost, images would be stored in the clear, and Orthanc would be given encrypted
    bytes for images.
    """

    def __init__(self, store: ObjectStore, register: KeyRegister) -> None:
        self._store = store
        self._register = register
        self.ask = store.ask
        self.head = store.head
        self.get_range = store.get_range  # of an encrypted object: bytes that do not verify
        self.delete = store.delete
        self.list_uploads = store.list_uploads
        self.abort_upload = store.abort_upload
        self.create_bucket = store.create_bucket
        self.verifies_checksums = store.verifies_checksums

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        """Also raises WrongKey: the bucket belongs to an archive that encrypts."""
        self._register.require_none(self._store)
        self._store.put(key, content, size, digest)

    @contextmanager
    def get(self, key: str, asked: Asked | None = None) -> Iterator[OpenObject]:
        """Also raises ObjectOfAnotherKey."""
        with self._store.get(key, asked) as found:
            start, whole = peek(found, HEADER)
            if is_encrypted(start):
                raise ObjectOfAnotherKey(f"{key} is encrypted, but Isen.Storage.Encryption names no keys")
            yield whole

    def list(self, prefix: str) -> Iterator[ListedObject]:
        return (listed for listed in self._store.list(prefix) if listed.key != self._register.key)


@dataclass(frozen=True)
class _Decrypted:
    attributes: ObjectAttributes
    _envelope: Envelope
    _stored: Iterator[bytes]

    def chunks(self) -> Iterator[bytes]:
        for number in range(self._envelope.count):
            yield self._envelope.decrypt(number, next(self._stored, b""))


def _decrypted(stored: ObjectAttributes, envelope: Envelope) -> ObjectAttributes:
    return replace(stored, size=envelope.size, digest=envelope.digest, encryption=label(envelope.key_id))


def label(key_id: str) -> str:
    """`ObjectAttributes.encryption` of objects that are encrypted with this key."""
    return f"Isen, key {key_id}"


def _name(key: str) -> str:
    """What the object is bound to: the attachment, wherever its object lies."""
    return key.rpartition("/")[2]
