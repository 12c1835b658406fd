"""What runs on the disk whose power is cut: the real spool with several threads, and the real transfer process.

    python -m tests.faults.power_cut_writer FOLDER EVENTS SEED MISTAKE

Each event is one line on the descriptor EVENTS, written once it is true: `accepted NAME` when `accept` has returned,
`taken NAME` if it took over a DICOM worker's copy,
`burying NAME` before and `buried NAME` after `bury`, `uploaded NAME` and `deleted NAME` when the object store, which
outlives the power cut, has done it.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from io import BufferedIOBase
from pathlib import Path
from uuid import UUID

import backend.transfer.write_path
import scp.arrivals
from backend import messages
from backend.atomic_file import write_digest
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool, SpoolFull
from backend.transfer.process import TransferProcess
from backend.transfer.series_index import SeriesIndex
from config.settings import OrthancSettings, StorageSettings
from config.whole_writes import write_all
from scp.arrivals import Arrivals
from tests.fakes.memory_object_store import MemoryObjectStore

MEGABYTE = 1024 * 1024
THREADS = 4
KEPT = 0.5  # seconds
SLOW = 0.02  # part of the syncs
SLOWNESS = 0.5  # seconds; longer than a removal waits here before it is carried out
BURIED = 0.3  # part of the attachments that are removed again
SPOOL_SIZE, CACHE_SIZE = 8 * MEGABYTE, 3 * MEGABYTE  # both together fit on the disk


def content_of(name: str) -> bytes:
    """The bytes of the attachment with this name: from none to some writes' worth."""
    digest = sha256(name.encode()).digest()
    size = (0, 700, 20_000, 60_000, 150_000)[digest[0] % 5] + digest[1]
    return (digest * (size // 32 + 1))[:size]


class Events:
    """Lines on a pipe, whole and at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, what: str, name: str) -> None:
        os.write(self._descriptor, f"{what} {name}\n".encode())


class DistantStore(MemoryObjectStore):
    """Tells what it has done; keeps the canary only."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        if not key.endswith(".dcm"):
            super().put(key, content, size, digest)
            return
        time.sleep(random.expovariate(30))
        content.seek(0)
        right = content_of(key)
        self._events.tell("uploaded" if content.read() == right and sha256(right).digest() == digest else "wrong", key)

    def delete(self, key: str) -> None:
        super().delete(key)
        if key.endswith(".dcm"):
            self._events.tell("deleted", key)


class Writer:
    """Some threads that store and remove, until the process is killed."""

    def __init__(self, spool: Spool, wake: Callable[[], None], events: Events) -> None:
        self._spool = spool
        self._wake = wake
        self._events = events
        self._arrivals = Arrivals(spool.directory)

    def run(self, source: random.Random) -> None:
        recent: list[str] = []
        while True:
            name = f"{UUID(int=source.getrandbits(128))}.dcm"
            try:
                self.accept(name)
            except (SpoolFull, OSError) as error:
                if getattr(error, "errno", errno.ENOSPC) != errno.ENOSPC:
                    raise
                time.sleep(0.01)
                continue
            self._wake()
            recent.append(name)
            if source.random() < BURIED:
                victim = recent.pop(source.randrange(len(recent)))
                self._events.tell("burying", victim)
                self._spool.bury(victim)
                self._events.tell("buried", victim)
                self._wake()
            del recent[:-20]

    def accept(self, name: str) -> None:
        content = content_of(name)
        with ExitStack() as stack:
            if len(content) % 2:  # a DICOM worker makes a copy while Orthanc parses, which is taken over
                body = stack.enter_context(self._arrivals.copied(lambda: iter((content,)), len(content)))
                b"".join(body())
            was_taken = self._spool.accept(name, content)
        self._events.tell("accepted", name)
        if was_taken:
            self._events.tell("taken", name)


class HastyWriter(Writer):
    """Acknowledges when everything has been written, and syncs then."""

    def accept(self, name: str) -> None:
        pending = self._spool.directory / "pending"
        incoming = self._spool.directory / "incoming" / name
        self._events.tell("accepted", name)
        descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        write_digest(descriptor, sha256(content_of(name)).digest())
        write_all(descriptor, content_of(name))
        os.rename(incoming, pending / name)
        os.fsync(descriptor)
        os.close(descriptor)
        folder = os.open(pending, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def leave_out_syncs(of_folders: bool) -> None:
    """Make every fsync of a folder, or every other one, do nothing."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) != of_folders:
            real(descriptor)

    os.fsync = fsync


def make_some_syncs_slow() -> None:
    """A disk that is busy lets fsync wait: meanwhile the others see what is not durable yet, and go on."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if random.random() < SLOW:
            time.sleep(SLOWNESS)
        real(descriptor)

    os.fsync = fsync


def main(folder: Path, events: Events, seed: int, mistake: str) -> None:
    make_some_syncs_slow()
    if mistake in ("no-fsync", "no-directory-fsync"):
        leave_out_syncs(of_folders=mistake == "no-directory-fsync")
    # what is kept in case the index has forgotten something would fill the disk
    backend.transfer.write_path.UPLOADED = backend.transfer.write_path.REMOVED = KEPT  # type: ignore[misc]
    scp.arrivals._CROWDED = scp.arrivals._PAUSE = 0.0  # type: ignore[misc]  # copy whatever arrives
    spool = Spool(folder / "spool", SPOOL_SIZE)
    spool.recover()
    store = DistantStore(events)
    settings = StorageSettings(
        bucket_name="bucket",
        region="us-east-1",
        spool_directory=spool.directory,
        cache_directory=folder / "cache",
        maximum_cache_size=CACHE_SIZE,
        removal_grace_period=0,
    )
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere, "transfer.sock")
        listener = messages.listen(path)
        client = TransferClient(path)
        process = TransferProcess(
            settings,
            listener,
            writes=store,
            reads=store,
            index=SeriesIndex(OrthancSettings(), ""),  # asked for what to read ahead: nobody reads here
            send_report=lambda report: spool.released(report["ReleasedBytes"]),
        )
        process.prepare()
        process.start()
        writer = (HastyWriter if mistake == "acknowledge-before-fsync" else Writer)(spool, client.wake, events)
        threads = [
            threading.Thread(target=writer.run, args=(random.Random(f"{seed} {number}"),)) for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(1)  # they run until they are killed


if __name__ == "__main__":
    main(Path(sys.argv[1]), Events(int(sys.argv[2])), int(sys.argv[3]), sys.argv[4])
