"""Where a data set goes while it arrives: memory first, an unnamed file once it is large.

The file has no name (O_TMPFILE), so whatever ends the association or the worker frees it. A budget bounds what all
associations of a worker hold in memory together; who finds it used up writes to a file at once.
"""

from __future__ import annotations

import io
import tempfile
import threading
from pathlib import Path
from typing import IO, BinaryIO, cast

from scp.statuses import OUT_OF_RESOURCES, Refusal
from scp.upper_layer.errors import ProtocolViolation


class MemoryBudget:
    """Bytes of memory that the data sets of a worker may take together."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Reserve `count` bytes; False, and nothing reserved, when they are not there."""
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def give_back(self, count: int) -> None:
        with self._lock:
            self._free += count


class DataSetBuffer:
    """Takes the fragments of one data set. Not thread-safe; `close` it in every case.

    A data set longer than `keep`, or one the disk has no room for, is received to its end and dropped: the peer gets
    the status in `refusal`. One longer than `maximum` ends the association.
    """

    def __init__(self, *, memory: int, keep: int, maximum: int, folder: Path, budget: MemoryBudget) -> None:
        self._memory = memory
        self._keep = keep
        self._maximum = maximum
        self._folder = folder
        self._budget = budget
        self._taken = 0
        self._target: IO[bytes] | None = None if keep <= 0 else io.BytesIO()
        self.length = 0
        self.refusal: Refusal | None = None

    def write(self, fragment: memoryview) -> None:
        """Append `fragment`, which may be reused afterwards.

        Raises:
            ProtocolViolation: the data set is longer than `maximum`.
        """
        self.length += len(fragment)
        if self.length > self._maximum:
            raise ProtocolViolation("data_set_length")
        if self._target is None:
            return
        if self.length > self._keep:
            self._drop("data set is too long")
            return
        try:
            if isinstance(self._target, io.BytesIO) and not self._fits(len(fragment)):
                self._move_to_file(self._target)
            _write_all(self._target, fragment)
        except OSError:
            self._drop("no room for the data set")

    def open(self) -> BinaryIO:
        """The data set at its start; empty if it was dropped."""
        if self._target is None:
            return io.BytesIO()
        self._target.flush()
        self._target.seek(0)
        return cast("BinaryIO", self._target)

    def close(self) -> None:
        """Free memory and file; harmless when repeated."""
        if self._target is not None:
            self._target.close()
            self._target = None
        self._budget.give_back(self._taken)
        self._taken = 0

    def _fits(self, count: int) -> bool:
        if self.length > self._memory or not self._budget.take(count):
            return False
        self._taken += count
        return True

    def _move_to_file(self, memory: io.BytesIO) -> None:
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 -- closed by `close`
        self._target = file
        _write_all(file, memory.getbuffer())
        memory.close()
        self._budget.give_back(self._taken)
        self._taken = 0

    def _drop(self, reason: str) -> None:
        self.close()
        self.refusal = Refusal(OUT_OF_RESOURCES, reason)


def _write_all(target: IO[bytes], content: memoryview) -> None:
    """Write every byte, or raise OSError; write(2) takes fewer than it was given when a disk is about to be full."""
    while content:
        content = content[target.write(content) :]
