"""Where a download goes: a file in the cache's folder, or memory if that disk cannot take it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from backend.transfer.object_store.protocols import Chunk
from config.whole_writes import pieces

_LARGEST_IN_MEMORY: Final = 512 * 1024 * 1024  # bytes


class DownloadFile:
    """A new file that is written once, from its start. `descriptor` stays at offset 0."""

    def __init__(self, path: str, size: int) -> None:
        """`size` is what will be written, in bytes."""
        self.path: str | None = path  # None: it has no name
        self.disk_error: OSError | None = None  # why it is in memory
        self._size = size
        self._written = 0
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.path = None
            self.descriptor = -1
            self._move_to_memory(error)

    def write(self, chunk: Chunk) -> None:
        """Append all of `chunk`.

        Raises:
            OSError: neither the disk nor memory takes it.
        """
        start = self._written
        try:
            self._append(chunk)
        except OSError as error:
            self._written = start  # part of the chunk may have been written
            self._move_to_memory(error)
            self._append(chunk)

    def unlink(self) -> None:
        """Take its name away; the descriptor keeps the bytes."""
        if self.path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            self.path = None

    def close(self) -> None:
        self.unlink()
        os.close(self.descriptor)

    def _append(self, chunk: Chunk) -> None:
        view = memoryview(chunk)
        while view:
            count = os.pwritev(self.descriptor, pieces(view), self._written)
            self._written += count
            view = view[count:]

    def _move_to_memory(self, error: OSError) -> None:
        if self.disk_error is not None or self._size > _LARGEST_IN_MEMORY:
            raise error
        self.disk_error = error
        memory = os.memfd_create("fetched", os.MFD_CLOEXEC)
        if self.descriptor >= 0:
            try:
                self._copy_to(memory)
            except BaseException:
                os.close(memory)
                raise
            self.unlink()
            os.close(self.descriptor)
        self.descriptor = memory

    def _copy_to(self, memory: int) -> None:
        offset = 0
        while offset < self._written:
            offset += os.pwrite(memory, os.pread(self.descriptor, self._written - offset, offset), offset)
