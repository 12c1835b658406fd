"""What an object in S3 says of itself, and its bytes as they come.

It says whose it is: one that was copied over another, with the digest it was stored with, is sound in itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from backend.transfer.object_store.errors import ObjectCorrupted
from backend.transfer.object_store.protocols import Chunk, ObjectAttributes

if TYPE_CHECKING:
    from config.http.answer import Answer

DIGEST: Final = "x-amz-meta-sha256"
OWNER: Final = "x-amz-meta-isen-attachment"
_CHUNK: Final = 1024 * 1024  # bytes, at most, that are given on at once
_PATIENCE: Final = 1.0  # seconds after which fewer are


class OpenS3Object:
    """An answer to GetObject, whose bytes are still to be read."""

    def __init__(self, key: str, response: Answer) -> None:
        self.attributes = attributes_of(key, response)
        self._response = response

    def chunks(self) -> Iterator[Chunk]:
        missing = self.attributes.size
        while missing > 0:
            buffer = bytearray(min(missing, _CHUNK))
            filled = self._fill(memoryview(buffer))
            missing -= filled
            yield buffer if filled == len(buffer) else memoryview(buffer)[:filled]

    def _fill(self, view: memoryview) -> int:
        """As far as bytes come in time: a byte now and then must not hold the reader until all is there."""
        filled = self._response.readinto1(view)
        deadline = time.monotonic() + _PATIENCE
        while filled < len(view) and time.monotonic() < deadline:
            filled += self._response.readinto1(view[filled:])
        return filled


def owner_of(key: str) -> str:
    """What an object says of whose it is: the attachment's UUID, the same below every prefix and in every structure."""
    return quote(key.rpartition("/")[2].partition(".")[0], safe="")


def require_own(key: str, response: Answer) -> None:
    """Refuse another attachment's object.

    Raises:
        ObjectCorrupted: it is one.
    """
    owner = response.headers.get(OWNER)  # earlier versions and the native plugin did not say
    if owner not in (None, owner_of(key)):
        raise ObjectCorrupted(f"at {key} is the object of {owner:.80}: it was put into another one's place")


def attributes_of(key: str, response: Answer) -> ObjectAttributes:
    """What the headers of an answer say of the object.

    Raises:
        ObjectCorrupted: they lack what every object has, or it is another attachment's.
    """
    require_own(key, response)
    try:
        size = int(response.headers["content-length"])
        digest = bytes.fromhex(response.headers.get(DIGEST, ""))
    except (KeyError, ValueError):
        raise ObjectCorrupted(f"the answer for {key} lacks its length, or its digest is not hexadecimal") from None
    return ObjectAttributes(
        size,
        digest or None,
        etag=response.headers.get("etag", "").strip('"'),
        modified=_unix_time(response.headers.get("last-modified", "")),
        storage_class=response.headers.get("x-amz-storage-class", ""),
    )


@lru_cache  # parsing takes 20 µs, and what is read together was often put within a few seconds
def _unix_time(http_date: str) -> float:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except ValueError:
        return 0.0
