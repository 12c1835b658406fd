"""Custom data: what Isen has Orthanc's index keep beside an attachment, to check its bytes with, whole or in part.

    "Isen" version | size | SHA-256 | length of the key | the key, UTF-8 | digests of the chunks
      4      1        8      32            2                                 16 bytes each

Numbers are big endian. A large attachment has a digest for each 256 KiB, so that a range of it can be read from S3 and
verified without the rest; the digest of a chunk is the first 16 bytes of its SHA-256. The key is that of the object
when it was stored, for whoever looks for it after `RootPath` or `StorageStructure` have been changed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

CHUNK: Final = 256 * 1024  # bytes; a range that crosses a border costs two
LARGE: Final = 4 * 1024 * 1024  # bytes; smaller attachments are quickly read whole and have no digests of chunks
_MAGIC: Final = b"Isen"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sBQ32sH")
_DIGEST: Final = 16  # bytes


class NotOurCustomData(Exception):
    """Another plugin, or a later version of Isen, has stored this attachment in a way that we do not know."""


@dataclass(frozen=True)
class CustomData:
    """What an attachment's bytes must be."""

    size: int  # bytes
    digest: bytes  # SHA-256
    key: str
    chunk_digests: bytes = b""  # empty: verify the whole

    @classmethod
    def of(cls, content: bytes, key: str) -> CustomData:
        """Describe an attachment that is about to be stored."""
        chunks = b""
        if len(content) > LARGE:
            chunks = _digests(content)
        return cls(len(content), sha256(content).digest(), key, chunks)

    @classmethod
    def decode(cls, data: bytes) -> CustomData | None:
        """What Orthanc has kept; None if it has kept nothing, as for attachments stored through the older API.

        Raises:
            NotOurCustomData: it is not ours.
        """
        if not data:
            return None
        if data[:4] != _MAGIC or len(data) < _HEADER.size:
            raise NotOurCustomData("another plugin has stored this attachment; it is not in Isen's bucket")
        _, version, size, digest, length = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise NotOurCustomData(
                f"a later Isen has stored this attachment (format {version}; this one knows {_VERSION}): upgrade Isen"
            )
        end = _HEADER.size + length
        return cls(size, digest, data[_HEADER.size : end].decode(), data[end:])

    def encode(self) -> bytes:
        key = self.key.encode()
        return _HEADER.pack(_MAGIC, _VERSION, self.size, self.digest, len(key)) + key + self.chunk_digests

    def chunks_around(self, start: int, end: int) -> tuple[int, int]:
        """The smallest range of whole chunks that holds the bytes `start` to `end`, exclusive."""
        return start - start % CHUNK, min(self.size, end + -end % CHUNK)

    def are_chunks(self, start: int, content: bytes | memoryview) -> bool:
        """Whether `content` is what was stored from `start`, the beginning of a chunk, to the end of another."""
        first = start // CHUNK * _DIGEST
        found = _digests(content)
        return found == self.chunk_digests[first : first + len(found)]


def _digests(content: bytes | memoryview) -> bytes:
    view = memoryview(content)
    return b"".join(sha256(view[start : start + CHUNK]).digest()[:_DIGEST] for start in range(0, len(view), CHUNK))
