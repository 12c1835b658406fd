"""Whether the spool and the cache can live where they are told to: asked by Orthanc's start and by `isen check`.

Nothing is created: a check by root must not leave folders that Orthanc's own user cannot write. In a folder that
exists, a small file is written, synced and removed again, because permissions, quotas and read-only mounts all lie in
their own way.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from backend.object_key import is_attachment_name

MOUNTS: Final = Path("/proc/self/mountinfo")
VOLATILE: Final = frozenset({"tmpfs", "ramfs", "overlay", "aufs", "devtmpfs"})  # gone with the machine or the container
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def check_folders(spool: Path, cache: Path, *, volatile_allowed: bool) -> list[str]:
    """What keeps Isen from starting, as sentences that name the option; empty if all is well.

    With `volatile_allowed` a spool that does not survive a restart is accepted.
    """
    problems = []
    # S3 takes what is pending, the cache gives up what it holds: once Isen runs
    will_have_room = any(any(folder.glob("*")) for folder in (spool / "pending", cache / "objects"))
    for option, folder in (("SpoolDirectory", spool), ("CacheDirectory", cache)):
        reason = unusable(folder, may_be_full=will_have_room)
        if reason:
            problems.append(f"Isen.Storage.{option}: {reason}")
    kind = file_system(spool)
    if kind in VOLATILE and not volatile_allowed:
        problems.append(
            f"Isen.Storage.SpoolDirectory: {spool} is on {kind}, which does not survive a restart, so acknowledged "
            "images could be lost; name a folder on a disk or a volume, or accept it with AllowVolatileSpool: true"
        )
    return problems


def check_storage_directory(folder: Path) -> list[str]:
    """What keeps Isen from reading and writing in the folder of Orthanc's own storage area, as sentences.

    A folder that is missing is refused, because it may be a disk that is not mounted.
    """
    if not folder.is_dir():
        reason: str | None = (
            f"there is no folder {folder}, where HybridMode reads attachments; mount its disk, name the folder that "
            "Orthanc's own storage area has used, or take HybridMode out"
        )
    else:
        reason = unusable(folder)
    return [f"StorageDirectory: {reason}"] if reason else []


def check_structure(spool: Path, *, legacy: bool) -> list[str]:
    """What keeps Isen from starting with this StorageStructure, as sentences.

    An attachment that was stored with the other one and is owed to S3 would get a key that neither of them looks for.
    """
    try:
        pending = os.listdir(spool / "pending")
    except OSError:
        return []  # a new spool, or `check_folders` tells
    count = sum(is_attachment_name(name) and ("." in name) == legacy for name in pending)
    reason = "were stored with the other structure and are not in S3 yet; set it back: it is fixed once objects exist"
    return [f"Isen.Storage.StorageStructure: {count} attachments in {spool} {reason}"] if count else []


def advise_folders(spool: Path, cache: Path) -> list[str]:
    """What works but costs speed or safety, as sentences that name the option."""
    advice = []
    if nearest(spool).stat().st_dev != nearest(cache).stat().st_dev:
        advice.append(
            "Isen.Storage.CacheDirectory: is on another file system than SpoolDirectory, so each image is copied after "
            "its upload instead of renamed; put both on one file system"
        )
    if not keeps_attributes(spool):
        advice.append(
            "Isen.Storage.SpoolDirectory: this file system keeps no extended attributes of users, so damage before "
            "an upload goes unnoticed; use ext4 or XFS"
        )
    return advice


def unusable(folder: Path, *, may_be_full: bool = False) -> str | None:
    """Why files cannot be written into the folder, or why it cannot be made; None if they can, or will be.

    With `may_be_full` it is no reason that the disk is full.
    """
    try:
        present = nearest(folder)
        if not present.is_dir():
            return f"{present} is not a folder; remove it or name another folder"
        if present != folder:
            if os.access(present, os.W_OK | os.X_OK):
                return None
            return f"{folder} cannot be made, because {present} is not writable {_by_whom()}; make it for this user"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".isen-check-") as canary:
            canary.write(b"isen")
            canary.flush()
            os.fsync(canary.fileno())
    except OSError as error:
        if may_be_full and error.errno in _FULL:
            return None
        return f"{folder} is not writable {_by_whom()} ({error.strerror}); {_remedy(error.errno)}"
    return None


def nearest(folder: Path) -> Path:
    """The folder, or the closest of its parents that exists."""
    for candidate in (folder, *folder.parents):
        if os.path.lexists(candidate):
            return candidate
    return Path("/")


def file_system(folder: Path) -> str:
    """The type of the file system a folder is on or would be made on ("ext4", "tmpfs"); empty if unknown."""
    place = os.path.realpath(nearest(folder))
    found, longest = "", -1
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode(errors="surrogateescape").decode("unicode_escape")  # \040 is a space
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # the later of two mounts on one point hides the earlier
            found, longest = after.split(" ")[0], len(point)
    return found


def keeps_attributes(folder: Path) -> bool:
    """Whether files there keep user extended attributes; also true if that cannot be tried."""
    present = nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=present, prefix=".isen-check-") as canary:
            os.setxattr(canary.fileno(), "user.isen.check", b"1")
    except OSError as error:
        return error.errno != errno.ENOTSUP
    return True


def _by_whom() -> str:
    return f"by user {os.geteuid()}"


def _remedy(number: int | None) -> str:
    if number in _FULL:
        return "free some space there"
    if number == errno.EROFS:
        return "it is mounted read-only"
    return "change its owner or mode, or name another folder"
