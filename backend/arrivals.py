"""Taking over what a DICOM worker has stored durably already, see `config.arrival`."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from backend.atomic_file import read_digest
from config.arrival import ARRIVING, PART, arrival_name

_READ_SIZE: Final = 64 * 1024  # bytes; larger ones are mapped anew by malloc, and cleared by the kernel, each time


def take_arrival(spool: str, content: bytes, digest: bytes | None, path: str) -> bool:
    """Have the worker's copy of `content` at `path`, if there is one; waits for one that is being written.

    Raises:
        OSError: what is at `path` is something else and cannot be unlinked.
    """
    copy = f"{spool}/{ARRIVING}/{arrival_name(content, len(content))}"
    is_renamed = False
    try:
        try:
            descriptor, is_being_written = os.open(copy, os.O_RDONLY | os.O_CLOEXEC), False
        except FileNotFoundError:
            descriptor, is_being_written = os.open(copy + PART, os.O_RDONLY | os.O_CLOEXEC), True
        try:
            # compared while the worker syncs what it has written; if that is not all of it yet, once more below
            is_equal = _holds(descriptor, content)
            if is_being_written:
                # What is copied was in memory, so this waits for the disk that would be written to instead, and ends
                # with the worker at the latest.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.rename(copy, path)
            is_renamed = True
            # it has no other name now, so nobody replaces it any more
            if (
                os.stat(path).st_ino == os.fstat(descriptor).st_ino
                and (digest is None or read_digest(descriptor) in (None, digest))
                and (is_equal or _holds(descriptor, content))
            ):
                return True
        finally:
            os.close(descriptor)
    except OSError:
        pass  # there is none, most likely; if the disk has failed, whoever writes it now will tell
    if is_renamed:
        os.unlink(path)
    return False


def _holds(descriptor: int, content: bytes) -> bool:
    """Whether the file is these bytes. Not mapped: a read error of the disk would be the end of Orthanc."""
    position = 0
    while piece := os.pread(descriptor, _READ_SIZE, position):
        if not content.startswith(piece, position):
            return False
        position += len(piece)
    return position == len(content)
