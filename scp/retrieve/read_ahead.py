"""Instances read from Orthanc before it is their turn: a read may be a request to S3, which has latency.

At most `WINDOW` instances are held or under way at any time, fewer if all requests together hold too much, and each in
memory only up to the client's limit. More are announced to the transfer process, which hands over their files as they
come; see `_Threads` for the rest.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import BinaryIO, Final, Protocol, Self, TypeAlias

from scp.attachments import AttachmentFiles
from scp.handed_over import MEMORY_LIMIT
from scp.orthanc_client import OrthancClient
from scp.part10 import FileMeta, NotPart10, read_file_meta
from scp.retrieve.selection import Instance
from scp.retrieve.transfer_syntax import TransferSyntaxes
from scp.statuses import NoSuitableContext
from scp.upper_layer.data_set_buffer import MemoryBudget

WINDOW: Final = 8
ANNOUNCED: Final = 48  # instances beyond the one that is read next, so that those only in S3 are fetched together
_ANNOUNCED_BYTES: Final = 256 * 1024 * 1024  # of them together: large ones lack bandwidth, which this cannot give
_ANNOUNCEMENT: Final = 16  # instances in one message
# of all requests of this worker together; each may have one instance beside it, so that none waits for others
_AHEAD: Final = MemoryBudget(256 * 1024 * 1024)


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

    def is_coming(self, instance: Instance, /) -> bool: ...

    def take(self, instance: Instance, /) -> EncodedInstance | Instance: ...

    def read(self, instance: Instance, /) -> EncodedInstance: ...

    def announce(self, instances: Sequence[Instance], /) -> None: ...


_Read: TypeAlias = Callable[[Instance], EncodedInstance | Instance]


class Announcements:
    """Says which instances will be read soon, each of them once, and takes what comes of it. For one request."""

    def __init__(self, files: AttachmentFiles | None) -> None:
        """`files`: None, there is nobody to tell."""
        self._deliveries = files.deliveries() if files else None
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._deliveries:
            self._deliveries.close()

    def __call__(self, instances: Sequence[Instance]) -> None:
        """`instances` will be read next, in this order; so many are announced as S3 may be asked for ahead."""
        new = [(one.attachment, one.size) for one in _first(instances) if one.attachment not in self._told]
        if new and self._deliveries:
            self._told.update(attachment for attachment, _ in new)
            self._deliveries.announce(new)

    def is_coming(self, instance: Instance) -> bool:
        """Whether its file may be handed over without being asked for."""
        return self._deliveries is not None and self._deliveries.expects(instance.attachment)

    def take(self, instance: Instance) -> BinaryIO | None:
        """Its file once it has come; None: it does not come. Close it."""
        return self._deliveries.take(instance.attachment, instance.size) if self._deliveries else None

    def forget(self, instance: Instance) -> None:
        """Its file will not be taken."""
        if self._deliveries:
            self._deliveries.forget(instance.attachment)


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

    def is_coming(self, instance: Instance) -> bool:
        """Whether to `take` it, without having asked for it; else `read` it."""
        stored = instance.transfer_syntax
        if stored and self._syntaxes.chosen(stored, self._accepted(instance.sop_class_uid)) != stored:
            self.announce.forget(instance)
            return False
        return self.announce.is_coming(instance)

    def take(self, instance: Instance) -> EncodedInstance | Instance:
        """What was handed over; an instance if it has to be `read` after all, with what is known of it now.

        Raises:
            as `read`.
        """
        file = self.announce.take(instance)
        return self._as_stored(instance, file) if file else instance

    def read(self, instance: Instance) -> EncodedInstance:
        """Ask for `instance`, the transfer process or else Orthanc, which converts it if it has to be.

        Raises:
            NoSuitableContext: the peer accepted nothing it can be sent in; nothing was read if the index could tell.
            NotPart10: what is stored is no DICOM file.
            OrthancError: it could not be read or converted.
        """
        stored = instance.transfer_syntax
        chosen = self._chosen(instance.sop_class_uid, stored) if stored else ""
        if chosen == stored:
            file = self._files.open(instance.attachment, instance.size) if self._files else None
            encoded = self._as_stored(instance, file or self._client.instance_file(instance.orthanc_id))
            if isinstance(encoded, EncodedInstance):
                return encoded
            chosen = self._chosen(encoded.sop_class_uid, encoded.transfer_syntax)
        file = self._converted(instance, chosen)
        return _encoded(instance, _meta(file, instance), file)

    def _as_stored(self, instance: Instance, file: BinaryIO) -> EncodedInstance | Instance:
        """`file` ready to be sent, or what the index should have said of it: it cannot be sent like this."""
        meta = _meta(file, instance)
        sop_class_uid = instance.sop_class_uid or meta.sop_class_uid
        if self._syntaxes.chosen(meta.transfer_syntax, self._accepted(sop_class_uid)) == meta.transfer_syntax:
            return _encoded(instance, meta, file)
        file.close()
        return replace(instance, sop_class_uid=sop_class_uid, transfer_syntax=meta.transfer_syntax)

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
    under_way: deque[tuple[Instance, Future[EncodedInstance], int]] = deque()  # with bytes of the budget
    with _Threads(reader) as threads:
        try:
            for number, instance in enumerate(instances):
                if number % _ANNOUNCEMENT == 0:
                    reader.announce(instances[number : number + ANNOUNCED + _ANNOUNCEMENT])
                size = min(instance.size, MEMORY_LIMIT)
                while len(under_way) == WINDOW or (under_way and not _AHEAD.take(size)):
                    yield under_way[0][:2]  # and gone only afterwards: who leaves may not have taken it
                    _AHEAD.give_back(under_way.popleft()[2])
                future: Future[EncodedInstance] = Future()
                under_way.append((instance, future, size if under_way else 0))
                threads.begin(instance, future)
            while under_way:
                yield under_way[0][:2]
                _AHEAD.give_back(under_way.popleft()[2])
        finally:
            for _, future, size in under_way:
                _AHEAD.give_back(size)
                if not future.cancel():
                    future.add_done_callback(_discard)


class _Threads:
    """One thread takes what is handed over; others wait for what has to be asked for, which is slow.

    More threads would take the interpreter from each other and from the one that sends, several times for each file.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._taking = ThreadPoolExecutor(1, "read-ahead")
        self._reading = ThreadPoolExecutor(WINDOW, "read-ahead-asking")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what has begun."""
        self._taking.shutdown()  # the first: it hands on to the other
        self._reading.shutdown()

    def begin(self, instance: Instance, future: Future[EncodedInstance]) -> None:
        """Begin to read `instance`; not if the future is cancelled before it is its turn."""
        if self._reader.is_coming(instance):
            self._taking.submit(self._begin, future, instance, self._reader.take)
        else:
            self._reading.submit(self._begin, future, instance, self._reader.read)

    def _begin(self, future: Future[EncodedInstance], instance: Instance, read: _Read) -> None:
        if future.set_running_or_notify_cancel():
            self._read(future, instance, read)

    def _read(self, future: Future[EncodedInstance], instance: Instance, read: _Read) -> None:
        try:
            result = read(instance)
            if isinstance(result, Instance):
                self._reading.submit(self._read, future, result, self._reader.read)
                return
        except BaseException as error:  # noqa: BLE001 - it is for who waits for the future
            future.set_exception(error)
        else:
            future.set_result(result)


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
