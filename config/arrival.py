"""Copies of instances that arrive: a DICOM worker stores one durably while Orthanc parses the same bytes.

    arriving/<name>.part   being written by a worker, which holds its flock(2)
    arriving/<name>        on stable storage, with its SHA-256 in the attribute that files of the spool have

Whoever needs a durable file of exactly these bytes may rename it away, after which it is theirs; what nobody has taken
its worker removes. The name tells how the content begins and how long it is, which both sides know without reading all
of it: a hint only, so whoever takes a file compares it. A part that is locked is its writer's alone: nobody else may
remove it, or a second one of the same name could be given the name of a durable file by the first one's writer.

Standard library only: Orthanc's interpreter loads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from typing import Final

ARRIVING: Final = "arriving"  # folder in the spool
PART: Final = ".part"
_BEGINNING: Final = 1024  # bytes; they hold the SOP Instance UID


def arrival_name(beginning: bytes, length: int) -> str:
    """The name for a content of `length` bytes that begins with `beginning`: its first kilobyte at least, or all."""
    return f"{zlib.crc32(beginning[:_BEGINNING]):08x}-{length:x}"


def sweep_arrivals(spool: str) -> None:
    """Remove what workers have left that died. What is still to be taken goes too: it is only written once more then.

    Raises:
        OSError: the folder is missing, or the disk has failed.
    """
    for entry in os.scandir(f"{spool}/{ARRIVING}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):  # taken meanwhile; being written
            descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(entry.path).st_ino == os.fstat(descriptor).st_ino:  # otherwise it is another one by now
                    os.unlink(entry.path)
            finally:
                os.close(descriptor)
