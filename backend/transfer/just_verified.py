"""Files whose bytes were verified on their way into the page cache, a moment ago.

Who reads such a file from the page cache gets the bytes that were verified, and need not do it again. That holds for
its first reader only, and for two seconds: the kernel would have to write the pages out, drop them and bring them back
from the disk in that time, for somebody else, before it could give other bytes. The reader looks at the clock.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from typing import Final

_KNOWN: Final = 1000  # files


class JustVerified:
    """Remembers files by name and inode. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[float, tuple[int, int]]] = OrderedDict()  # monotonic time, file

    def add(self, name: str, descriptor: int) -> None:
        """The bytes of this file have been verified and written."""
        entry = time.monotonic(), _file(descriptor)
        with self._lock:
            self._files[name] = entry
            if len(self._files) > _KNOWN:
                self._files.popitem(last=False)

    def take(self, name: str, descriptor: int) -> float:
        """The monotonic time at which the bytes of this very file were verified, once; 0: they were not."""
        with self._lock:
            at, file = self._files.pop(name, (0.0, (0, 0)))
        return at if at and _file(descriptor) == file else 0.0


def _file(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
