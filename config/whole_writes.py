"""Writing all of something to a file, at the least cost to the kernel and to the GIL.

Standard library only: Orthanc's interpreter loads it.
"""

from __future__ import annotations

import os
from typing import Final

# Bytes of a piece. Above 64 KiB ext4 fills the page cache with larger folios, which cost the kernel of a virtual
# machine four times the CPU per byte (512 KB file: 1.3 ms in one piece, 0.3 ms in eight). writev(2) takes the pieces
# together: each system call gives the GIL away, and has to get it back.
_PIECE: Final = 64 * 1024
_AT_ONCE: Final = 256 * _PIECE  # bytes; writev(2) takes 1,024 pieces


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte; writev(2) may take less than it was given.

    Raises:
        OSError: the disk failed, or is full; some of the bytes may have been written.
    """
    view = memoryview(content)
    while view:
        view = view[os.writev(descriptor, pieces(view)) :]


def pieces(view: memoryview) -> list[memoryview]:
    """The beginning of `view`, or all of it, for one writev(2)."""
    return [view[start : start + _PIECE] for start in range(0, min(len(view), _AT_ONCE), _PIECE)]
