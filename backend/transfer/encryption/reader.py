"""An attachment's file, read as its encrypted object: nothing encrypted ever lies on the disk or whole in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from backend.transfer.encryption.envelope import CHUNK, TAG, Envelope, stored_size
from backend.transfer.object_store.errors import ContentChanged

_KEPT: Final = 8 * 1024 * 1024  # bytes; an object up to this is encrypted once and kept


class EncryptedContent(io.BufferedIOBase):
    """Reads like a file of the encrypted object; a larger one is encrypted anew each time it is read from its start.

    Should the file be altered between two readings, two plaintexts would meet one nonce. So the tags of the first
    reading are kept, 64 KiB for each GiB, and a chunk that gets another tag does not leave this object.
    """

    def __init__(self, content: io.BufferedIOBase, envelope: Envelope, name: str) -> None:
        """Read `content` once.

        Raises:
            ContentChanged: it does not have the size and the SHA-256 of the envelope.
        """
        super().__init__()
        self._content = content
        self._envelope = envelope
        self._name = name
        self._tags: list[bytes] = []
        self.size = stored_size(envelope.size)
        plaintext, stored, kept = sha256(), sha256(envelope.header), [envelope.header]
        for number, chunk in enumerate(self._plaintext()):
            plaintext.update(chunk)
            piece = envelope.encrypt(number, chunk)
            self._tags.append(piece[-TAG:])
            stored.update(piece)
            if self.size <= _KEPT:
                kept.append(piece)
        if plaintext.digest() != envelope.digest:
            raise self._changed()
        self.digest = stored.digest()  # SHA-256 of the encrypted object
        self._kept = kept if self.size <= _KEPT else []
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Only to the start."""
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("an encrypted content can be read from its start only")
        self._pieces = iter(self._kept) if self._kept else self._encrypted_again()
        self._rest = b""
        return 0

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer at the end only.

        Raises:
            ContentChanged: the file is not what it was at first.
        """
        wanted = self.size if size is None or size < 0 else size
        parts, length = [self._rest], len(self._rest)
        while length < wanted and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            length += len(piece)
        joined = b"".join(parts)
        self._rest = joined[wanted:]
        return joined[:wanted]

    def _encrypted_again(self) -> Iterator[bytes]:
        yield self._envelope.header
        for number, chunk in enumerate(self._plaintext()):
            piece = self._envelope.encrypt(number, chunk)
            if piece[-TAG:] != self._tags[number]:
                raise self._changed()
            yield piece

    def _plaintext(self) -> Iterator[bytes]:
        """The chunks of the file; an empty one has one empty chunk."""
        self._content.seek(0)
        for number in range(self._envelope.count):
            size = min(CHUNK, self._envelope.size - number * CHUNK)
            chunk = self._content.read(size)
            if len(chunk) != size:
                raise self._changed()
            yield chunk

    def _changed(self) -> ContentChanged:
        return ContentChanged(f"the content for {self._name} is not what its digest says")
