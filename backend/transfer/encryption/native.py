"""What Orthanc's own S3 plugin has encrypted (`StorageEncryption`, format "A1"): read for migration, never written.

    "A1" | number of the master key | IV | data key | ciphertext | tag
     2     4, little endian           32   32                      16 bytes

AES-256-GCM with the first 70 bytes as associated data; IV and data key are each encrypted with AES-256-CTR under the
master key and a counter that always begins at zero. So every object has the same key stream there, and nothing binds an
object to its attachment: good enough to read, not to write. With the flat structure its keys end in `.enc`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from backend.object_key import is_attachment_name
from backend.transfer.encryption.pieces import Peeked, pieces
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectMissing, ObjectOfAnotherKey
from backend.transfer.object_store.protocols import (
    ListedObject,
    ObjectAttributes,
    ObjectStore,
    OpenObject,
)

if TYPE_CHECKING:
    from config.http.asked import Asked

SUFFIX: Final = ".enc"
_PREFIX: Final = struct.Struct("<2sI32s32s")
_MAGIC: Final = b"A1"
_TAG: Final = 16  # bytes
OVERHEAD: Final = _PREFIX.size + _TAG
_PIECE: Final = 1024 * 1024  # bytes
_IN_MEMORY: Final = 16 * 1024 * 1024  # bytes of a decrypted object; a larger one goes to a file without a name


class NativeKeys:
    """Master keys of the native plugin, by number."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(keys)

    def decryptor(self, prefix: bytes, key: str) -> AEADDecryptionContext:
        """What decrypts the object that begins with this prefix.

        Raises:
            ObjectCorrupted: it is none of the native plugin's.
            ObjectOfAnotherKey: its master key is not here.
        """
        if len(prefix) != _PREFIX.size or not prefix.startswith(_MAGIC):
            raise ObjectCorrupted(f"{key}{SUFFIX} is not in the format of the native plugin")
        _, number, iv, data_key = _PREFIX.unpack(prefix)
        if number not in self._keys:
            raise ObjectOfAnotherKey(
                f"{key} is encrypted with the native plugin's master key {number}, which is not in StorageEncryption"
            )
        master = self._keys[number]
        decryptor = Cipher(AES256(_unmasked(data_key, master)), GCM(_unmasked(iv, master))).decryptor()
        decryptor.authenticate_additional_data(prefix)
        return decryptor


class NativeObjectStore:
    """A store in which objects of the native plugin are read like all others.

    With the flat structure an object that is missing is looked for with the plugin's suffix, and that one is deleted
    with the other, or when it has been put anew. Such an object has one tag for all of it: it is decrypted whole before
    any of it is given, and a range costs as much as the whole.
    """

    def __init__(self, store: ObjectStore, keys: NativeKeys, *, legacy: bool) -> None:
        self._store = store
        self._keys = keys
        self._legacy = legacy  # the plugin's objects have no suffix of their own
        self.list_uploads = store.list_uploads
        self.abort_upload = store.abort_upload
        self.create_bucket = store.create_bucket
        self.verifies_checksums = store.verifies_checksums

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        self._store.put(key, content, size, digest)
        self._delete_native(key)

    def ask(self, key: str, *, may_connect: bool = False) -> Asked | None:  # noqa: ARG002 - the first request may not be the last
        return None

    @contextmanager
    def get(self, key: str, asked: Asked | None = None) -> Iterator[OpenObject]:
        """Also raises ObjectOfAnotherKey."""
        with ExitStack() as stack:
            is_native = False
            try:
                found = stack.enter_context(self._store.get(key, asked))
            except ObjectMissing:
                if self._legacy:
                    raise
                found = stack.enter_context(self._store.get(key + SUFFIX))
                is_native = True
            size = found.attributes.size - OVERHEAD
            parts = pieces(found.chunks(), _PREFIX.size, *_sizes(size), _TAG)
            start = next(parts, b"")
            if is_native or (self._legacy and size >= 0 and start.startswith(_MAGIC)):
                content = stack.enter_context(SpooledTemporaryFile(_IN_MEMORY))
                self._decrypt(key, start, parts, size, content)
                yield _Decrypted(_decrypted(found.attributes), content)
            else:
                yield Peeked(found.attributes, (start,), parts)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Also raises ObjectOfAnotherKey."""
        try:
            if not self._is_native(key):
                return self._store.get_range(key, start, end)
        except ObjectMissing:
            if self._legacy:
                raise
        with self.get(key) as found:
            content = b"".join(found.chunks())
        if end > len(content):
            raise ObjectCorrupted(f"{key} has {len(content)} bytes, {end} were expected")
        return content[start:end]

    def head(self, key: str) -> ObjectAttributes:
        try:
            found = self._store.head(key)
            return _decrypted(found) if self._is_native(key) else found
        except ObjectMissing:
            if self._legacy:
                raise
        found = self._store.head(key + SUFFIX)
        if found.size < OVERHEAD:
            raise ObjectCorrupted(f"{key}{SUFFIX} is shorter than the native plugin's format")
        return _decrypted(found)

    def delete(self, key: str) -> None:
        self._store.delete(key)
        self._delete_native(key)

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """The plugin's objects by the keys that they have here, and with the sizes of their content."""
        before = None
        for listed in self._store.list(prefix):
            name = listed.key.removesuffix(SUFFIX)
            if self._legacy:
                yield replace(listed, content_sizes=(listed.size, listed.size - OVERHEAD))
            elif name != listed.key and is_attachment_name(name.rpartition("/")[2]):
                if name != before:  # it has been put anew, and the plugin's object is about to be deleted
                    size = listed.size - OVERHEAD
                    yield replace(listed, key=name, size=size, content_sizes=(size,), etag="")
            else:
                yield listed
            before = listed.key

    def _is_native(self, key: str) -> bool:
        """Whether the object with the key itself, without the suffix, is the plugin's."""
        if not self._legacy:
            return False
        try:
            return self._store.get_range(key, 0, OVERHEAD).startswith(_MAGIC)
        except ObjectCorrupted:
            return False  # too short

    def _decrypt(self, key: str, prefix: bytes, parts: Iterator[bytes], size: int, content: IO[bytes]) -> None:
        decryptor = self._keys.decryptor(prefix, key)
        try:
            for _ in _sizes(size):
                content.write(decryptor.update(next(parts, b"")))
            decryptor.finalize_with_tag(next(parts, b""))
        except (InvalidTag, ValueError):  # ValueError: the tag is cut off
            raise ObjectCorrupted(
                f"the native plugin's object of {key} does not have the bytes it was stored with"
            ) from None
        content.seek(0)

    def _delete_native(self, key: str) -> None:
        if not self._legacy:
            self._store.delete(key + SUFFIX)


@dataclass(frozen=True)
class _Decrypted:
    attributes: ObjectAttributes
    _content: IO[bytes]

    def chunks(self) -> Iterator[bytes]:
        while chunk := self._content.read(_PIECE):
            yield chunk


def _decrypted(stored: ObjectAttributes) -> ObjectAttributes:
    return replace(stored, size=stored.size - OVERHEAD, digest=None, encryption="A1, the native plugin's")


def _sizes(size: int) -> list[int]:
    """Of the pieces in which `size` bytes are decrypted."""
    rest = size % _PIECE
    return [_PIECE] * (size // _PIECE) + ([rest] if rest else [])


def _unmasked(masked: bytes, master: bytes) -> bytes:
    decryptor = Cipher(AES256(master), CTR(bytes(16))).decryptor()
    return decryptor.update(masked) + decryptor.finalize()
