"""The format of encrypted objects, version 1; ENCRYPTION.md describes it for those who have nothing but a key.

    header, 226 bytes                        chunks of 256 KiB, each with a tag of 16 bytes; at least one
    offset  size
      0      8   89 "Isen" 0D 0A 1A
      8      1   version, 1
      9      1   suite, 1: AES-256-GCM, HKDF-SHA-512, chunks of 256 KiB
     10     32   id of the master key, ASCII, filled up with zeros
     42     16   check value of the master key
     58      8   size of the plaintext, big endian
     66     32   message id, random
     98     12   nonce of the next field, random
    110     80   data key and SHA-256 of the plaintext, encrypted with a key made of master key and message id
    190     32   commitment to the data key
    222      4   CRC-32 of all before it: tells damage from a wrong key

Data key and digest are bound to everything before them and to the attachment's name; the chunks to name, size and
message id, and by their nonces to their place and to being the last one. So an object, a header or a chunk in another's
place is refused, as are a truncated object and one with something behind its end. Bucket and prefix are not bound:
objects may be moved. The commitment makes it impossible to craft an object that two keys decrypt to different things,
which AES-GCM alone would allow.

Every object has its own data key and every wrapping its own key, so no nonce is ever used twice with one key.
"""

from __future__ import annotations

import hmac
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backend.transfer.encryption.keys import Keyring, MasterKey
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectOfAnotherKey

HEADER: Final = 226  # bytes
CHUNK: Final = 256 * 1024  # bytes of plaintext; those of backend.custom_data, so that a verified range wastes nothing
TAG: Final = 16  # bytes
STORED_CHUNK: Final = CHUNK + TAG
MAGIC: Final = b"\x89Isen\r\n\x1a"
_VERSION: Final = 1
_SUITE: Final = 1
_BEFORE_WRAPPED: Final = struct.Struct(">8sBB32s16sQ32s12s")
_WRAPPED: Final = slice(_BEFORE_WRAPPED.size, _BEFORE_WRAPPED.size + 80)
_COMMITMENT: Final = slice(_WRAPPED.stop, _WRAPPED.stop + 32)
_NONCE: Final = struct.Struct(">7xIB")  # number of the chunk, whether it is the last


def stored_size(size: int) -> int:
    """Bytes of an encrypted object whose plaintext has `size` bytes."""
    return HEADER + size + TAG * _count(size)


def plaintext_sizes(stored: int) -> tuple[int, ...]:
    """Bytes of plaintext in an encrypted object of `stored` bytes; empty: no encrypted object has this size."""
    rest = stored - HEADER
    size = rest - TAG * -(-rest // STORED_CHUNK)
    return (size,) if size >= 0 and stored_size(size) == stored else ()


def is_encrypted(start: bytes) -> bool:
    """Whether an object that starts like this has been encrypted by Isen, in any version."""
    return start.startswith(MAGIC)


@dataclass(frozen=True)
class Envelope:
    """An object's header together with what it takes to encrypt or decrypt the chunks behind it."""

    header: bytes
    key_id: str
    size: int  # bytes of plaintext
    digest: bytes  # SHA-256 of the plaintext
    _cipher: AESGCM
    _context: bytes

    @property
    def count(self) -> int:
        """The number of chunks."""
        return _count(self.size)

    def encrypt(self, number: int, plaintext: bytes) -> bytes:
        """Chunk `number` as it is stored. Must never be given two plaintexts for one number."""
        return self._cipher.encrypt(self._nonce(number), plaintext, self._context)

    def decrypt(self, number: int, stored: bytes) -> bytes:
        """The plaintext of chunk `number`.

        Raises:
            ObjectCorrupted: it is not what was stored there.
        """
        try:
            return self._cipher.decrypt(self._nonce(number), stored, self._context)
        except InvalidTag:
            raise ObjectCorrupted(f"chunk {number} of the encrypted object is not what was stored there") from None

    def place(self, start: int, end: int) -> tuple[int, int, int]:
        """For the plaintext `start` to `end`, not empty: the first chunk, and the stored bytes of all its chunks."""
        first, behind = start // CHUNK, -(-end // CHUNK)
        return first, HEADER + first * STORED_CHUNK, min(HEADER + behind * STORED_CHUNK, stored_size(self.size))

    def decrypt_all(self, first: int, stored: bytes) -> Iterator[bytes]:
        """The plaintext of several whole chunks that follow each other."""
        for number, start in enumerate(range(0, len(stored), STORED_CHUNK), first):
            yield self.decrypt(number, stored[start : start + STORED_CHUNK])

    def _nonce(self, number: int) -> bytes:
        return _NONCE.pack(number, number == self.count - 1)


@dataclass(frozen=True)
class Randomness:
    """What must be new for each object; given only to make test vectors."""

    data_key: bytes
    message_id: bytes
    nonce: bytes

    @classmethod
    def fresh(cls) -> Randomness:
        return cls(os.urandom(32), os.urandom(32), os.urandom(12))


def seal(key: MasterKey, name: str, size: int, digest: bytes, randomness: Randomness | None = None) -> Envelope:
    """A new envelope, for the plaintext of this size and SHA-256 of the attachment `name`."""
    new = randomness or Randomness.fresh()
    fields = (MAGIC, _VERSION, _SUITE, key.id.encode(), key.check_value, size, new.message_id, new.nonce)
    before = _BEFORE_WRAPPED.pack(*fields)
    wrapped = _wrapping_cipher(key, new.message_id).encrypt(new.nonce, new.data_key + digest, before + name.encode())
    header = before + wrapped + _derive(new.data_key, new.message_id, b"commitment")
    header += struct.pack(">I", zlib.crc32(header))
    return _envelope(header, digest, new.data_key, name)


def unseal(header: bytes, name: str, keys: Keyring) -> Envelope:
    """The envelope of the attachment `name`, from the first `HEADER` bytes of its object, which `is_encrypted`.

    Raises:
        ObjectCorrupted: the header was damaged or altered, or belongs to another attachment.
        ObjectOfAnotherKey: it takes a key, or a version of Isen, that is not here.
    """
    if len(header) != HEADER or header[-4:] != struct.pack(">I", zlib.crc32(header[:-4])):
        raise ObjectCorrupted(f"the header of the encrypted object of {name} is damaged")
    _, version, suite, key_id, check_value, _, message_id, nonce = _BEFORE_WRAPPED.unpack_from(header)
    if (version, suite) != (_VERSION, _SUITE):
        raise ObjectOfAnotherKey(f"{name} was encrypted by a later Isen (format {version}.{suite}): upgrade Isen")
    key = keys.find(key_id.rstrip(b"\0").decode("ascii", "backslashreplace"), check_value, name)
    try:
        opened = _wrapping_cipher(key, message_id).decrypt(
            nonce, header[_WRAPPED], header[: _WRAPPED.start] + name.encode()
        )
    except InvalidTag:
        raise ObjectCorrupted(f"the header of the object of {name} was altered, or is another attachment's") from None
    data_key, digest = opened[:32], opened[32:]
    if not hmac.compare_digest(header[_COMMITMENT], _derive(data_key, message_id, b"commitment")):
        raise ObjectCorrupted(f"the object of {name} does not commit to its data key")
    return _envelope(header, digest, data_key, name)


def _envelope(header: bytes, digest: bytes, data_key: bytes, name: str) -> Envelope:
    *_, key_id, _, size, message_id, _ = _BEFORE_WRAPPED.unpack_from(header)
    context = bytes([_SUITE]) + struct.pack(">Q", size) + message_id + name.encode()
    cipher = AESGCM(_derive(data_key, message_id, b"content"))
    return Envelope(header, key_id.rstrip(b"\0").decode(), size, digest, cipher, context)


def _wrapping_cipher(key: MasterKey, message_id: bytes) -> AESGCM:
    return AESGCM(_derive(key.secret, message_id, b"wrap"))


def _derive(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA512(), 32, salt, b"Isen 1 " + purpose).derive(secret)


def _count(size: int) -> int:
    return max(1, -(-size // CHUNK))
