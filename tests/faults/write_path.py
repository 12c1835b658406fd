"""The write path in a process of its own, one step per command, so that its system calls can be made to fail.

    python -m tests.faults.write_path FOLDER

Commands and answers are JSON lines, read with readv(2) and written with write(2), which nothing else here uses but
the log. All parts are the real ones, the object store excepted: it is in memory and never fails.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import backend.transfer.pending_queue
import backend.transfer.removals
import scp.arrivals
from backend import messages
from backend.plugin.attachments import Attachments
from backend.plugin.storage_area3 import StorageArea3
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool
from backend.transfer.attachment_upload import AttachmentUpload
from backend.transfer.availability import Availability, ObservedObjectStore
from backend.transfer.counters import Counters
from backend.transfer.kept_names import KeptNames
from backend.transfer.name_locks import NameLocks
from backend.transfer.pending_queue import PendingQueue
from backend.transfer.read_cache import ReadCache
from backend.transfer.removals import Removals
from backend.transfer.remover import Remover
from backend.transfer.report import ReleasedBytes
from backend.transfer.spool_watch import SpoolWatch
from backend.transfer.uploader import Uploader
from scp.arrivals import Arrivals
from tests.fakes.memory_object_store import MemoryObjectStore

MEGABYTE = 1024 * 1024
STORAGE = {
    "StorageStructure": "flat",
    "RootPath": "",
    "Durability": "Spool",
    "HybridMode": "Disabled",
    "ObjectStoreTimeout": 1,
}


def content_of(uuid: str, size: int) -> bytes:
    """The bytes of the attachment with this UUID."""
    return (sha256(uuid.encode()).digest() * (size // 32 + 1))[:size]


class Codes:
    """Stands for `orthanc.ErrorCode`."""

    SUCCESS, PLUGIN, NOT_ENOUGH_MEMORY, BAD_RANGE, INEXISTENT_FILE = 0, 1, 4, 41, 13
    CANNOT_WRITE_FILE, TIMEOUT, FULL_STORAGE, CORRUPTED_FILE, STORAGE_AREA_PLUGIN = 14, 16, 19, 20, 32


class Host:
    """Stands for the module `orthanc`."""

    ErrorCode = Codes

    def __init__(self) -> None:
        self.log: list[str] = []
        self.LogError = self.log.append


class WritePath:
    """Plugin and transfer process, without threads: each step when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.host = Host()
        self.folder = folder / "spool"
        self.spool = Spool(self.folder, 100 * MEGABYTE, log_error=self.host.LogError, log_warning=self.host.LogError)
        self.listener = messages.listen(folder / "transfer.sock")  # hints to the transfer process wait here
        client = TransferClient(folder / "transfer.sock")
        attachments = Attachments(self.spool, folder / "cache", client, log_error=self.host.LogError)
        self.arrivals = Arrivals(self.folder)
        self.area = StorageArea3(self.host, attachments, STORAGE)
        self.store = MemoryObjectStore()
        self.released = ReleasedBytes()
        self.queue = PendingQueue(self.folder / "pending", self.released.add)
        availability, counters, names = Availability(lambda: None), Counters(), NameLocks()
        cache = ReadCache(folder / "cache", 100 * MEGABYTE, counters)
        cache.recover()
        observed = ObservedObjectStore(self.store, availability)
        uploaded, removed = (KeptNames(self.folder / folder, 0) for folder in ("uploaded", "removed"))
        self.removals = Removals(self.folder / "tombstones")
        upload = AttachmentUpload(self.folder, cache, observed, str, uploaded=uploaded, names=names, counters=counters)
        self.uploader = Uploader(self.queue, upload, availability, 1)
        self.remover = Remover(
            self.folder,
            cache,
            observed,
            str,
            removals=self.removals,
            uploaded=uploaded,
            removed=removed,
            names=names,
            availability=availability,
            counters=counters,
            grace_period=0,
            on_dropped=self.queue.dropped,
        )
        self.watch = SpoolWatch(self.folder, self.queue, self.removals, self.remover, (uploaded, removed))

    def create(self, uuid: str, size: int) -> int:
        code, _ = self.area.create(uuid, 1, size, content_of(uuid, size), None)
        return int(code)

    def take_over(self, uuid: str, size: int) -> int:
        """Create what a DICOM worker copies meanwhile."""
        content = content_of(uuid, size)
        with self.arrivals.copied(lambda: iter((content,)), size) as body:
            b"".join(body())
            return self.create(uuid, size)

    def remove(self, uuid: str) -> int:
        return self.area.remove(uuid, 1, b"")

    def transfer(self) -> None:
        """One round of the transfer process: look, upload all that is pending, delete what is due."""
        try:
            self.watch.look()
        except OSError as error:  # as its thread does
            self.host.LogError(str(error))
        for _ in tuple(self.queue._pending):  # once each, even if it fails
            name = self.queue.take()
            assert name
            self.uploader._work(name)
        try:
            self.remover.check_due()
            self.remover.delete_due()
        except OSError as error:  # as its thread does
            self.host.LogError(str(error))
        self.spool.released(self.released.total)

    def tend(self) -> None:
        self.spool.tend()

    def start_again(self) -> int:
        """What the next start would do with the folder, up to the count of what is pending."""
        spool = Spool(self.folder, 100 * MEGABYTE)
        os.close(spool.lock(0))
        return spool.recover()

    def state(self) -> dict[str, Any]:
        """What is where."""
        folders = {
            name: sorted(os.listdir(self.folder / name)) for name in ("arriving", "incoming", "pending", "tombstones")
        }
        objects = [entry.key for entry in self.store.list("")]
        return {
            **folders,
            "objects": objects,
            "used": self.spool.used,
            "measured": sum(
                (self.folder / folder / name).stat().st_size
                for folder in ("incoming", "pending")
                for name in folders[folder]
            ),
            "needs_tending": self.spool.needs_tending,
            "health": self.spool.health.report()["State"],
            "log": self.host.log[-3:],
        }


def answer(step: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"Result": step(*arguments)}
    except Exception as error:  # noqa: BLE001 - what the harness must know
        return {"Exception": type(error).__name__, "Message": str(error)}


def main(folder: Path) -> None:
    backend.transfer.pending_queue.back_off = backend.transfer.removals.back_off = lambda *_, **__: 0.0  # type: ignore[attr-defined]
    backend.transfer.removals._SHORTEST = 0.0  # type: ignore[misc]
    scp.arrivals._CROWDED = scp.arrivals._PAUSE = 0.0  # type: ignore[misc]
    path = WritePath(folder)
    buffer = bytearray(65536)
    os.write(1, b"{}\n")
    while received := os.readv(0, [buffer]):
        step, *arguments = json.loads(buffer[:received])
        os.write(1, json.dumps(answer(getattr(path, step), arguments)).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
