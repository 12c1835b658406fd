"""A folder of `*.wl` files, as Orthanc's sample plugin and DCMTK's wlmscpfs read it.

    <directory>/<any name>.wl   one order each; whoever writes it renames it into place when it is complete

Read: regular files whose name ends in `.wl`, in either case, and does not start with a dot; symbolic links only if they
end inside the folder. Not read: subfolders, and everything else (lock files, unfinished files). Nothing a peer sends
ever becomes part of a path.

A file is parsed once and kept until its times, size or inode change; the folder is listed for every query, which costs
one `stat` per file. Where that takes long, a listing serves several queries: until a file comes, goes or is renamed,
and otherwise for ten times as long as it took, at most two seconds; only a file that is overwritten in place is then
seen that much later. Queries for some days look at no entries but those of these days. A file that cannot be used is
logged once, until it changes.
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
from scp.matching.temporal import DAY, parse_date
from scp.statuses import Refusal
from scp.upper_layer.limits import Limits
from scp.worklist_sources.entry import IncompleteEntry, entries_of
from scp.worklist_sources.file_format import NotDicom, read_worklist_file
from scp.worklist_sources.protocol import SourceUnavailable
from scp.worklist_sources.selection import EVERYTHING, FIRST_DAY, LAST_DAY, Selection
from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, tag_of

log = logging.getLogger(__name__)

SUFFIX: Final = ".wl"
MAXIMUM_FILE_SIZE: Final = 1024 * 1024  # bytes; an order has some thousand
MAXIMUM_FILES: Final = 100_000
QUICK_LISTING: Final = 0.02  # seconds; such a listing is made for every query
LISTINGS_SHARE: Final = 0.1  # of a worker's time for longer ones
CLOCK_TICK: Final = 50_000_000  # nanoseconds, and more than any kernel's
LONGEST_USE: Final = 2.0  # seconds that a listing serves

_START_DATE: Final = tag_of("ScheduledProcedureStepStartDate")

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
        self._usable_until = float("-inf")  # monotonic, as long as the folder itself does not change
        self._folder_changed_at = 0  # nanoseconds
        self._files: dict[str, _ParsedFile] = {}
        self._entries: Sequence[Candidate] = ()
        self._by_day: dict[int, list[Candidate]] = {}

    def entries(self, selection: Selection = EVERYTHING) -> Sequence[Candidate]:
        """See `WorklistSource.entries`: sorted by file name, or by day and file name."""
        asked_at = time.monotonic()
        with self._lock:
            if self._listed_at <= asked_at and not self._is_usable():
                self._list()
            if (selection.first_day, selection.last_day) == (FIRST_DAY, LAST_DAY):
                return self._entries
            days = sorted(day for day in self._by_day if selection.first_day <= day <= selection.last_day)
            return list(dict.fromkeys(chain.from_iterable(self._by_day[day] for day in days)))

    def remove(self, is_done: Callable[[Candidate], bool]) -> int:
        """Delete the files all of whose entries are done; how many there were. A file that has just changed stays.

        Raises:
            SourceUnavailable: the folder cannot be listed; nothing was deleted.
        """
        with self._lock:
            self._list()
            done = [
                (name, file) for name, file in self._files.items() if file.entries and all(map(is_done, file.entries))
            ]
            return sum(self._delete(name, file.stamp) for name, file in done)

    def _delete(self, name: str, stamp: Stamp) -> bool:
        path = self._directory / name
        try:
            if _stamp(path.stat()) != stamp:
                return False
            path.unlink()
        except OSError as error:
            log.warning("worklist_file_not_deleted inode=%d reason=%r", stamp[-1], error.strerror)
            return False
        return True

    def _is_usable(self) -> bool:
        """Whether the last listing will do: nothing has come, gone or been renamed since, and it was not long ago."""
        if time.monotonic() >= self._usable_until:
            return False
        try:
            return self._directory.stat().st_mtime_ns == self._folder_changed_at
        except OSError:
            return False  # listing it says what is wrong

    def _list(self) -> None:
        began = time.monotonic()
        try:
            self._folder_changed_at = self._directory.stat().st_mtime_ns
            found = dict(sorted(self._stamps()))
        except OSError as error:
            raise SourceUnavailable(f"the worklist folder cannot be listed: {error.strerror}") from error
        if len(found) > MAXIMUM_FILES:
            raise SourceUnavailable(f"the worklist folder holds more than {MAXIMUM_FILES} files")
        if self._encoding != self._default_encoding():
            self._encoding, self._files = self._default_encoding(), {}
        listed_in = time.monotonic() - began
        files = {}
        for name, stamp in found.items():
            known = self._files.get(name)
            parsed = known if known and known.stamp == stamp else self._parse(name, known)
            if parsed:
                files[name] = parsed
        if files != self._files:
            self._entries = tuple(chain.from_iterable(file.entries for file in files.values()))
            self._by_day = _by_day(self._entries)
        self._files = files
        self._listed_at = began
        # within one tick of the kernel's clock the folder may change twice without being seen to
        is_settled = time.time_ns() - self._folder_changed_at > CLOCK_TICK
        use = min(listed_in / LISTINGS_SHARE, LONGEST_USE) if listed_in > QUICK_LISTING and is_settled else 0.0
        self._usable_until = time.monotonic() + use

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
            decoded = read_worklist_file(content, self._limits, self._encoding, self._private_vrs)
            return _ParsedFile(stamp, entries_of(decoded))
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or "it cannot be read"
        except Refusal as refusal:
            reason = refusal.comment
        except (NotDicom, Undecodable, IncompleteEntry, TooLarge) as error:
            reason = str(error)
        # who names files after patients shall not find them in the log; `find -inum` tells which one it is
        log.warning("worklist_file_skipped inode=%s reason=%r", stamp[-1] if stamp else "unknown", reason)
        return _ParsedFile(stamp, ()) if stamp else known


def _by_day(entries: Sequence[Candidate]) -> dict[int, list[Candidate]]:
    """The entries of each day as `Selection` counts them. What is no date matches no day, and is left out."""
    days: dict[int, list[Candidate]] = {}
    for entry in entries:
        (step,) = entry.attributes[SCHEDULED_PROCEDURE_STEP_SEQUENCE].values
        dates = map(parse_date, step.attributes[_START_DATE].values)
        for day in {date.start // DAY for date in dates if date}:
            days.setdefault(day, []).append(entry)
    return days


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
