"""Read cache: attachments that S3 holds, kept on the local disk to be read again.

    objects/<first two characters of name>/<name>    may be evicted at any time
    fetching/<name>.<unique>                         being downloaded by the transfer process

Both sides use this module: the plugin only opens, the transfer process also puts in and evicts. A file's mtime is the
time it was last read; the oldest goes first. A file that was fetched ahead, before anybody asked for it, gets an mtime
of `UNREAD` seconds ago: its first reader touches it, and so shows that it was worth it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_TOUCH_INTERVAL: Final = 30.0  # seconds; LRU does not need to be finer, and each touch writes an inode
UNREAD: Final = 60.0  # seconds; more than the touch interval


def cache_path(directory: Path, name: str) -> Path:
    """Where the attachment's file lies, if the cache holds it."""
    return Path(cache_file(directory, name))


def open_cached(directory: Path, name: str, on_touch: Callable[[str], None] = lambda _: None) -> int | None:
    """A read-only descriptor of a cached attachment, marked as just read, or None.

    `on_touch` is called with the name if it was not marked so already: also when it is read for the first time.
    A cache that cannot be read holds nothing: S3 has it all.
    """
    try:
        descriptor = os.open(cache_file(directory, name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if time.time() - os.fstat(descriptor).st_mtime > _TOUCH_INTERVAL:
            os.utime(descriptor)
            on_touch(name)
    except OSError:
        pass  # a disk that has become read-only still serves; eviction will find this file older than it is
    return descriptor


def cache_file(directory: Path, name: str) -> str:
    """`cache_path` without the 3 µs that a Path takes: in every read, and several times in a download."""
    return f"{directory}/objects/{name[:2]}/{name}"
