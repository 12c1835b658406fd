"""A file as the transfer process hands it over: a descriptor, whose bytes are verified before they are used."""

from __future__ import annotations

import io
import logging
import os
import time
from hashlib import file_digest, sha256
from typing import BinaryIO, Final

from config.folder_format import DIGEST_ATTRIBUTE

log = logging.getLogger(__name__)

MEMORY_LIMIT: Final = 16 * 1024 * 1024  # bytes of a file held in memory; a larger one is sent from its descriptor
_TRUSTED: Final = 2.0  # seconds in which what was verified on its way into the page cache needs not be verified again


def taken(uuid: str, descriptor: int, size: int, verified_at: float) -> BinaryIO | None:
    """The attachment's file, whose bytes were verified at this monotonic time, or 0; None: ask Orthanc.

    Closes the descriptor.
    """
    try:
        is_just_verified = verified_at and time.monotonic() - verified_at < _TRUSTED
        content = _cached_content(descriptor, size) if is_just_verified else None
        return content or _opened(descriptor, size)
    except OSError as error:
        log.warning("attachment_unreadable uuid=%s reason=%s", uuid, error)
        return None
    finally:
        os.close(descriptor)


def _cached_content(descriptor: int, size: int) -> BinaryIO | None:
    """The file of `size` bytes if all of them are in the page cache still; None: the disk would have to be read.

    What was verified and then written to the page cache, and comes from there, needs not be verified again.
    """
    if not 0 < size <= MEMORY_LIMIT or os.fstat(descriptor).st_size != size:
        return None
    content = io.BytesIO()
    content.seek(size - 1)
    content.write(b"\0")
    content.seek(0)
    with content.getbuffer() as buffer:
        try:
            count = os.preadv(descriptor, [buffer], 0, os.RWF_NOWAIT)
        except OSError:  # nothing of it, or a file system that cannot tell
            return None
    return content if count == size else None


def _opened(descriptor: int, size: int) -> BinaryIO | None:
    """The file or its content in memory, if these are the bytes Orthanc's index describes and Isen has stored.

    Raises:
        OSError: the disk failed.
    """
    if os.fstat(descriptor).st_size != size:  # compressed by Orthanc
        return None
    try:
        digest = os.getxattr(descriptor, DIGEST_ATTRIBUTE)
    except OSError:  # a file system without extended attributes
        digest = None
    if size <= MEMORY_LIMIT:
        content = os.pread(descriptor, size, 0)
        return io.BytesIO(content) if digest in (None, sha256(content).digest()) and len(content) == size else None
    if size % 2:  # it has to be padded, which a file cannot be
        return None
    if digest is not None:
        with open(descriptor, "rb", closefd=False) as file:
            if file_digest(file, "sha256").digest() != digest:
                return None
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.fdopen(os.dup(descriptor), "rb")
