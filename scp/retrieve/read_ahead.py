"""Instances read from Orthanc before it is their turn: a read may be a request to S3, which has latency.

At most `WINDOW` instances are held or under way at any time, each in memory only up to the client's limit.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, Final, Protocol

from scp.attachments import AttachmentFiles
from scp.orthanc_client import OrthancClient
from scp.part10 import FileMeta, NotPart10, read_file_meta
from scp.retrieve.selection import Instance
from scp.retrieve.transfer_syntax import TransferSyntaxes
from scp.statuses import NoSuitableContext

WINDOW: Final = 8
ANNOUNCED: Final = 48  # instances beyond the one that is read next, so that those only in S3 are fetched together
_ANNOUNCED_BYTES: Final = 256 * 1024 * 1024  # of them together: large ones lack bandwidth, which this cannot give
_ANNOUNCEMENT: Final = 16  # instances in one message


@dataclass(frozen=True)
class EncodedInstance:
    """One instance ready to be sent; `data_set` stands at its first byte. Close it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    data_set: BinaryIO

    def close(self) -> None:
        self.data_set.close()


class Reader(Protocol):
    """Reads instances; thread-safe."""

    def read(self, instance: Instance, /) -> EncodedInstance: ...

    def announce(self, instances: Sequence[Instance], /) -> None: ...


class Announcements:
    """Says which instances will be read soon, each of them once. For one request, one thread at a time."""

    def __init__(self, files: AttachmentFiles | None) -> None:
        """`files`: None, there is nobody to tell."""
        self._files = files
        self._told: set[str] = set()

    def __call__(self, instances: Sequence[Instance]) -> None:
        """`instances` will be read next, in this order; so many are announced as S3 may be asked for ahead."""
        new = [(one.attachment, one.size) for one in _first(instances) if one.attachment not in self._told]
        if new and self._files:
            self._told.update(attachment for attachment, _ in new)
            self._files.announce(new)


def _first(instances: Sequence[Instance]) -> Sequence[Instance]:
    """Those that have `_ANNOUNCED_BYTES` together; `WINDOW` at least, which are read at once in any case."""
    sizes = accumulate(instance.size for instance in instances)
    count = sum(1 for size in sizes if size <= _ANNOUNCED_BYTES)
    return instances[: max(WINDOW, count)]


class InstanceReader:
    """Reads instances in a transfer syntax that the peer accepted. Thread-safe."""

    def __init__(
        self,
        client: OrthancClient,
        files: AttachmentFiles | None,
        announce: Announcements,
        syntaxes: TransferSyntaxes,
        accepted: Callable[[str], tuple[str, ...]],
    ) -> None:
        """`files`: None, all from Orthanc. `accepted`: which transfer syntaxes the peer accepted for a SOP class."""
        self._client = client
        self._files = files
        self.announce = announce
        self._syntaxes = syntaxes
        self._accepted = accepted
        self._converts_files = True  # until an Orthanc before `?transcode=` has shown itself

    def read(self, instance: Instance) -> EncodedInstance:
        """Read `instance`, converted by Orthanc if it has to be.

        Raises:
            NoSuitableContext: the peer accepted nothing it can be sent in; nothing was read if the index could tell.
            NotPart10: what is stored is no DICOM file.
            OrthancError: it could not be read or converted.
        """
        chosen = self._chosen(instance.sop_class_uid, instance.transfer_syntax) if instance.transfer_syntax else None
        if chosen in (None, instance.transfer_syntax):
            file = self._file(instance)
            meta = _meta(file, instance)
            chosen = self._chosen(instance.sop_class_uid or meta.sop_class_uid, meta.transfer_syntax)
            if chosen == meta.transfer_syntax:
                return _encoded(instance, meta, file)
            file.close()
        assert chosen is not None  # noqa: S101 - for the type checker: _chosen returned it
        file = self._converted(instance, chosen)
        return _encoded(instance, _meta(file, instance), file)

    def _file(self, instance: Instance) -> BinaryIO:
        file = self._files.open(instance.attachment, instance.size) if self._files else None
        return file or self._client.instance_file(instance.orthanc_id)

    def _chosen(self, sop_class_uid: str, stored: str) -> str:
        chosen = self._syntaxes.chosen(stored, self._accepted(sop_class_uid))
        if chosen is None:
            raise NoSuitableContext(f"{sop_class_uid} stored in {stored}")
        return chosen

    def _converted(self, instance: Instance, transfer_syntax: str) -> BinaryIO:
        if self._converts_files:
            file = self._client.transcoded_instance(instance.orthanc_id, transfer_syntax)
            if _meta(file, instance).transfer_syntax == transfer_syntax:
                file.seek(0)
                return file
            file.close()
            self._converts_files = False
        return self._client.modified_instance(instance.orthanc_id, transfer_syntax)


def read_ahead(
    reader: Reader, instances: Sequence[Instance]
) -> Generator[tuple[Instance, Future[EncodedInstance]], None, None]:
    """Each instance with the future of what was read, in order. Close the iterator when leaving early."""
    reader.announce(instances[:ANNOUNCED])
    under_way: deque[tuple[Instance, Future[EncodedInstance]]] = deque()
    with ThreadPoolExecutor(WINDOW, "read-ahead") as threads:
        try:
            for number, instance in enumerate(instances):
                if number % _ANNOUNCEMENT == 0:
                    reader.announce(instances[number : number + ANNOUNCED + _ANNOUNCEMENT])
                under_way.append((instance, threads.submit(reader.read, instance)))
                if len(under_way) == WINDOW:
                    yield under_way.popleft()
            while under_way:
                yield under_way.popleft()
        finally:
            for _, future in under_way:
                if not future.cancel():
                    future.add_done_callback(_discard)


def _discard(future: Future[EncodedInstance]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


def _pad(file: BinaryIO) -> None:
    """Make the data set end at an even offset, as deflated ones need not in a file but must in messages (PS3.5 A.5)."""
    start = file.tell()
    if (file.seek(0, io.SEEK_END) - start) % 2:
        file.write(b"\0")
    file.seek(start)


def _meta(file: BinaryIO, instance: Instance) -> FileMeta:
    """The file's meta information; Orthanc also stores bare data sets, whose transfer syntax it has found out."""
    try:
        return read_file_meta(file)
    except NotPart10:
        if instance.transfer_syntax:
            return FileMeta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax)
        file.close()
        raise


def _encoded(instance: Instance, meta: FileMeta, file: BinaryIO) -> EncodedInstance:
    _pad(file)
    sop_class_uid = instance.sop_class_uid or meta.sop_class_uid
    sop_instance_uid = instance.sop_instance_uid or meta.sop_instance_uid
    return EncodedInstance(sop_class_uid, sop_instance_uid, meta.transfer_syntax, file)
