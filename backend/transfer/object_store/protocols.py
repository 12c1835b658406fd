"""The object store as the rest of the transfer process sees it: one Protocol per operation.

What holds for all of them: thread-safe; keys are write-once here, so the same bytes may be put again at any time; every
call ends in bounded time; failures are `errors.ObjectStoreError`, and an operation that failed may still have taken
effect (a time-out does not say that the server did nothing). Digests are SHA-256, 32 raw bytes. Ranges are half open.
`tests/contract/test_object_store.py` runs on every implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from config.http.asked import Asked

Chunk: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ObjectAttributes:
    """What the store tells about an object without its bytes."""

    size: int  # bytes
    digest: bytes | None  # None: whoever stored it left none, as Orthanc's own S3 plugin does
    etag: str = field(default="", compare=False)  # without its quotation marks
    modified: float = field(default=0.0, compare=False)  # Unix time, of the server's clock
    storage_class: str = field(default="", compare=False)  # "" = STANDARD
    encryption: str = field(default="", compare=False)  # on the client's side: how and by which key; "" = not


@dataclass(frozen=True)
class ListedObject:
    """One entry of a listing; the size is that of the stored bytes."""

    key: str
    size: int  # bytes
    etag: str = field(default="", compare=False)  # without its quotation marks
    modified: float = field(default=0.0, compare=False)  # Unix time, of the server's clock
    content_sizes: tuple[int, ...] | None = field(default=None, compare=False)  # if they may differ from `size`

    def may_hold(self, size: int) -> bool:
        """Whether its content can have `size` bytes: a listing does not tell whether an object is encrypted."""
        return size in (self.content_sizes if self.content_sizes is not None else (self.size,))


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload that was begun and neither completed nor aborted: invisible, and billed."""

    key: str
    upload_id: str
    begun: float  # Unix time, of the server's clock


class OpenObject(Protocol):
    """An object being read; it cannot be read twice."""

    @property
    def attributes(self) -> ObjectAttributes: ...

    def chunks(self) -> Iterator[Chunk]:
        """The bytes in order; what has been given is not touched again.

        Raises:
            Unreachable: the connection broke before `attributes.size` bytes had come. The bytes are not compared with
                the digest: that is the caller's part.
        """
        ...


class PutObject(Protocol):
    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        """Store `size` bytes of `content`, read from its start, with their digest.

        When this returns the store has confirmed these very bytes. Nothing is left behind of a large object whose
        upload failed, unless the store could not be told.

        Raises:
            ContentChanged: the content does not hash to `digest`; the object was not written.
            ObjectStoreError: not confirmed.
        """
        ...


class VerifiesChecksums(Protocol):
    def verifies_checksums(self, key: str) -> bool:
        """Find out whether this store refuses bytes that do not have the checksum they come with; `key` is left unused.

        Until it was asked, and if the answer is no, what the store says of checksums counts for nothing, and `put` has
        other proof: an ETag that is the content's MD5, or the object read back.

        Raises:
            ObjectStoreError: it could not be found out.
        """
        ...


class AskObject(Protocol):
    def ask(self, key: str, *, may_connect: bool = False) -> Asked | None:
        """Send the request of `get` and return, so that one thread may have many under way.

        None: that was not possible, or not without waiting for a connection, which it does if it `may_connect`.
        """
        ...


class GetObject(Protocol):
    def get(self, key: str, asked: Asked | None = None) -> AbstractContextManager[OpenObject]:
        """Open an object. `asked` is what `ask` has given for this key; it is used once.

        Raises:
            ObjectMissing: there is none, and the store would tell if there were.
            ObjectArchived: it lies in an archive class.
        """
        ...


class GetRange(Protocol):
    def get_range(self, key: str, start: int, end: int) -> bytes:
        """The bytes `start` to `end`, exclusive; never fewer. A range cannot be verified with the digest.

        It is not empty.

        Raises:
            ObjectMissing: there is none.
            ObjectCorrupted: the object is shorter than `end`.
        """
        ...


class ReadObject(AskObject, GetObject, GetRange, Protocol):
    """Every way to read."""


class HeadObject(Protocol):
    def head(self, key: str) -> ObjectAttributes:
        """Size and digest.

        Raises:
            ObjectMissing: there is none. Some stores also answer this for a missing bucket.
        """
        ...


class DeleteObject(Protocol):
    def delete(self, key: str) -> None:
        """After this the key does not exist; it need not have existed. A versioned bucket keeps the bytes."""
        ...


class ListObjects(Protocol):
    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key begins with `prefix`, in the order of their keys' bytes, page by page."""
        ...


class ListUploads(Protocol):
    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Every multipart upload under way or left behind whose key begins with `prefix`."""
        ...


class AbortUpload(Protocol):
    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """After this its parts are gone; it need not exist any more. One that was completed leaves its object."""
        ...


class CreateBucket(Protocol):
    def create_bucket(self) -> None:
        """Make the bucket of the settings; one that is ours already is left as it is."""
        ...


class ObjectStore(
    PutObject,
    VerifiesChecksums,
    AskObject,
    GetObject,
    GetRange,
    HeadObject,
    DeleteObject,
    ListObjects,
    ListUploads,
    AbortUpload,
    CreateBucket,
    Protocol,
):
    """Everything; take the narrowest Protocol that will do."""
