"""A folder of `*.wl` files, as Orthanc's sample plugin and DCMTK's wlmscpfs read it.

    <directory>/<any name>.wl   one order each; whoever writes it renames it into place when it is complete

Read: regular files whose name ends in `.wl`, in either case, and does not start with a dot; symbolic links only if they
end inside the folder. Not read: subfolders, and everything else (lock files, unfinished files). Nothing a peer sends
ever becomes part of a path.

A file is parsed once and kept until its times, size or inode change; the folder is listed for every query,
which costs one `stat` per file. A file that cannot be used is logged once, until it changes.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from scp.matching import Candidate
from scp.matching.candidate import NO_PRIVATE_VRS, PrivateVrs, Undecodable
from scp.statuses import Refusal
from scp.upper_layer.limits import Limits
from scp.worklist_sources.entry import IncompleteEntry, entries_of
from scp.worklist_sources.file_format import NotDicom, read_worklist_file
from scp.worklist_sources.protocol import SourceUnavailable
from scp.worklist_sources.selection import EVERYTHING, Selection

log = logging.getLogger(__name__)

SUFFIX: Final = ".wl"
MAXIMUM_FILE_SIZE: Final = 1024 * 1024  # bytes; an order has some thousand
MAXIMUM_FILES: Final = 100_000

Stamp = tuple[int, int, int, int]  # modification and status change time in nanoseconds, size in bytes, inode


class TooLarge(Exception):
    """More bytes than an order has."""


class _ParsedFile(NamedTuple):
    stamp: Stamp
    entries: tuple[Candidate, ...]  # none if the file cannot be used


class WorklistFolder:
    """The entries of one folder. Thread-safe: one thread lists the folder, those that asked before share its result."""

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        default_encoding: Callable[[], str],
        private_vrs: PrivateVrs = NO_PRIVATE_VRS,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._default_encoding = default_encoding
        self._private_vrs = private_vrs
        self._lock = threading.Lock()
        self._listed_at = float("-inf")  # when the last listing began; monotonic
        self._encoding = ""  # what the files are decoded with where they name none
        self._files: dict[str, _ParsedFile] = {}
        self._entries: Sequence[Candidate] = ()

    def entries(self, _selection: Selection = EVERYTHING) -> Sequence[Candidate]:
        """See `WorklistSource.entries`: all of them, sorted by file name."""
        asked_at = time.monotonic()
        with self._lock:
            if self._listed_at <= asked_at:
                self._list()
            return self._entries

    def _list(self) -> None:
        began = time.monotonic()
        try:
            found = dict(sorted(self._stamps()))
        except OSError as error:
            raise SourceUnavailable(f"the worklist folder cannot be listed: {error.strerror}") from error
        if len(found) > MAXIMUM_FILES:
            raise SourceUnavailable(f"the worklist folder holds more than {MAXIMUM_FILES} files")
        if self._encoding != self._default_encoding():
            self._encoding, self._files = self._default_encoding(), {}
        files = {}
        for name, stamp in found.items():
            known = self._files.get(name)
            parsed = known if known and known.stamp == stamp else self._parse(name, known)
            if parsed:
                files[name] = parsed
        if files != self._files:
            self._entries = tuple(chain.from_iterable(file.entries for file in files.values()))
        self._files = files
        self._listed_at = began

    def _stamps(self) -> Iterator[tuple[str, Stamp]]:
        root = os.path.realpath(self._directory)
        with os.scandir(root) as listing:
            for found in listing:
                if found.name.startswith(".") or not found.name.lower().endswith(SUFFIX):
                    continue
                if found.is_symlink() and not os.path.realpath(found.path).startswith(root + os.sep):
                    continue
                try:
                    status = found.stat()
                except OSError as error:
                    if isinstance(error, FileNotFoundError) or found.is_symlink():
                        continue  # it has vanished, or leads nowhere
                    raise
                if stat.S_ISREG(status.st_mode):
                    yield found.name, _stamp(status)

    def _parse(self, name: str, known: _ParsedFile | None) -> _ParsedFile | None:
        """The file as it is now; as it was known if it changes while it is read; None if it has vanished."""
        path = self._directory / name
        stamp = None
        try:
            stamp = _stamp(path.stat())
            content = _read(path)
            if _stamp(path.stat()) != stamp:
                return known
            data_set = read_worklist_file(content, self._limits)
            decoded = Candidate.of(data_set, self._encoding, self._private_vrs)
            return _ParsedFile(stamp, entries_of(decoded))
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or "it cannot be read"
        except Refusal as refusal:
            reason = refusal.comment
        except (NotDicom, Undecodable, IncompleteEntry, TooLarge) as error:
            reason = str(error)
        log.warning("worklist_file_skipped file=%r reason=%r", name, reason)
        return _ParsedFile(stamp, ()) if stamp else known


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read(path: Path) -> bytes:
    """The file's content; never waits for a writer, should the file have become a pipe.

    Raises:
        TooLarge: it is larger than `MAXIMUM_FILE_SIZE`.
        OSError: it cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(MAXIMUM_FILE_SIZE + 1)
    if len(content) > MAXIMUM_FILE_SIZE:
        raise TooLarge(f"larger than {MAXIMUM_FILE_SIZE} bytes")
    return content
