"""Whether the machine went down while Orthanc worked, and what its index may therefore be wrong about.

    running         boot id of the machine in which this spool is used; the plugin removes it once Orthanc has closed
                    its index in order
    recheck.json    names whose rows are still to be looked at; gone when that is done

Killed processes lose nothing: what SQLite has written is in the kernel's memory. A machine that goes down takes up to
ten seconds of SQLite's commits with it (`synchronous=NORMAL`). These are the last commits, and their attachments and
tombstones, synced before Orthanc acknowledged anything, are the youngest in the spool. Young is what lies close before
the youngest, whatever the time is now. But a clock that was set back before the power cut makes the youngest look old:
of what is pending all images are looked at, unless they are very many.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from backend.object_key import is_attachment_name
from config.folder_format import sync_folder

log = logging.getLogger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_WINDOW: Final = 120.0  # seconds before the youngest file in which rows may have been lost
_MANY: Final = 10_000  # files in pending; of more only the young ones are looked at, which takes seconds and not hours


@dataclass(frozen=True)
class Recheck:
    """Attachments by name, as of the power cut."""

    stored: list[str]  # the index must have a row for each
    removed: list[str]  # and for none of these


def noticed_at_start(spool: Path) -> Recheck | None:
    """What is to be looked at, because of a power cut just now or of one whose repair was interrupted; None: nothing.

    Durable when this returns, unless the disk is full: then the next start lists again. Lists the folders if there was
    a power cut.
    """
    running, recheck = spool / "running", spool / "recheck.json"
    before = running.read_text() if running.exists() else None
    owed = None
    try:
        owed = Recheck(**json.loads(recheck.read_bytes()))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError):  # it was written whole: somebody, or the disk, has changed it
        log.error("recheck_unreadable path=%s action=list_again", recheck)  # noqa: TRY400 - one line per event
        before = "unknown"
    now = _BOOT_ID.read_text()
    if before == now:
        return owed
    try:
        if before is not None:
            owed = _joined(owed, _young(spool))
            _write(recheck, json.dumps(asdict(owed)))
        _write(running, now)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # only uploads will give the disk room; an empty file needs none, and to the next start it is a power cut
        log.warning("power_cut_noted_without_details reason=%s", error.strerror)
        running.touch()
        sync_folder(spool)
    return owed


def repaired(spool: Path) -> None:
    """Everything has been looked at."""
    (spool / "recheck.json").unlink(missing_ok=True)


def _young(spool: Path) -> Recheck:
    found = {folder: _times(spool / folder) for folder in ("pending", "uploaded", "tombstones", "removed")}
    times = [at for names in found.values() for at in names.values()]
    past = [at for at in times if at <= time.time()]  # a clock that was ahead must not make all others look old
    youngest = max(past or times, default=0.0)

    def young(folder: str) -> set[str]:
        return {name for name, at in found[folder].items() if youngest - at <= _WINDOW}

    buried = found["tombstones"].keys() | found["removed"].keys()
    # what is kept for a while is young, whatever its time says
    stored = (young("pending") | found["uploaded"].keys() | _images(found["pending"])) - buried
    return Recheck(sorted(stored), sorted(young("tombstones") | found["removed"].keys()))


def _images(pending: dict[str, float]) -> set[str]:
    """Of the pending files those that may be images, unless there are very many: whose the others are is not known."""
    return set() if len(pending) > _MANY else {name for name in pending if name.endswith(".dcm") or "." not in name}


def _times(folder: Path) -> dict[str, float]:
    return {entry.name: entry.stat().st_mtime for entry in os.scandir(folder) if is_attachment_name(entry.name)}


def _joined(owed: Recheck | None, found: Recheck) -> Recheck:
    if owed is None:
        return found
    removed = sorted({*owed.removed, *found.removed})
    return Recheck(sorted({*owed.stored, *found.stored} - {*removed}), removed)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)
