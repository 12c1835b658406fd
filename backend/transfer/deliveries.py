"""Hands files to who announced that it will send them, each as soon as it is here.

A worker names what it will read next and gets one word on each, in whatever order they come: a descriptor, or that it
has to ask for that file by itself. So no file costs either process a request and a thread that waits for its answer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from backend.transfer.download_slots import Priority
from backend.transfer.fetcher import Fetcher
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.prefetcher import Prefetcher

# bytes of a file that the disk may begin to read: several files are handed over, but read one at a time
_BEGINNING: Final = 16 * 1024 * 1024


class File(NamedTuple):
    """A file to send; whoever gets it closes its descriptor."""

    name: str
    verified_at: float  # monotonic time, if its bytes were verified on their way into the page cache; else 0
    descriptor: int


# takes files and the names of those that are not here; never waits or raises; whether somebody will read them
HandOver: TypeAlias = Callable[[Sequence[File], Sequence[str]], bool]


class Deliveries:
    """Thread-safe."""

    def __init__(self, fetcher: Fetcher, prefetcher: Prefetcher) -> None:
        self._fetcher = fetcher
        self._prefetcher = prefetcher

    def begin(self, attachments: Sequence[tuple[str, int]], hand_over: HandOver) -> None:
        """Hand over these, by name and size: what is here together and at once, the others when they come."""
        here, missing = [], []
        for name, size in attachments:
            file = self._opened(name, anywhere=True)
            if file is not None:
                here.append(file)
            elif not self._prefetcher.submit(name, size, Priority.SEND, partial(self._came, name, hand_over)):
                missing.append(name)
        if here or missing:
            self._deliver(here, missing, hand_over)

    def one(self, name: str) -> File:
        """What somebody asks for by itself.

        Raises:
            as `Fetcher.fetch`.
        """
        file = self._described(name, self._fetcher.fetch(name, Priority.SEND))
        self._prefetcher.read(name)
        return file

    def _came(self, name: str, hand_over: HandOver, _outcome: str) -> None:
        """It has been downloaded, or cannot be, or is somebody else's to download."""
        file = self._opened(name, anywhere=False)
        self._deliver([file] if file else [], [] if file else [name], hand_over)

    def _deliver(self, files: Sequence[File], missing: Sequence[str], hand_over: HandOver) -> None:
        try:
            if hand_over(files, missing):
                for file in files:
                    self._prefetcher.read(file.name)
        finally:
            for file in files:
                os.close(file.descriptor)

    def _opened(self, name: str, *, anywhere: bool) -> File | None:
        try:
            descriptor = self._fetcher.opened(name, anywhere=anywhere)
            return None if descriptor is None else self._described(name, descriptor)
        except (ObjectStoreError, OSError):
            return None  # it will be asked for by itself, and the reason given

    def _described(self, name: str, descriptor: int) -> File:
        try:
            verified_at = self._fetcher.just_verified.take(name, descriptor)
        except OSError:  # a network file system
            os.close(descriptor)
            raise
        if not verified_at:  # it may be on the disk only
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, _BEGINNING, os.POSIX_FADV_WILLNEED)
        return File(name, verified_at, descriptor)
