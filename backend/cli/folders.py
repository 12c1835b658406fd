"""Tries the spool, the cache and the worklist folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from backend.cli.outcome import Outcome, failed, passed, warning
from backend.folders import (
    advise_folders,
    check_folders,
    check_storage_directory,
    check_structure,
    file_system,
    nearest,
)
from backend.spool_note import check_left_behind
from config.folder_format import UnusableFormat, formats
from config.settings import MEGABYTE, Settings, StorageSettings, StorageStructure


def check(settings: Settings) -> Iterator[Outcome]:
    """One outcome per folder, more if there is advice; nothing is created."""
    storage = settings.storage
    problems = check_folders(
        storage.spool_directory, storage.cache_directory, volatile_allowed=storage.allow_volatile_spool
    )
    advice = [] if problems else advise_folders(storage.spool_directory, storage.cache_directory)
    for name, option, folder in (
        ("Spool folder", "Isen.Storage.SpoolDirectory", storage.spool_directory),
        ("Cache folder", "Isen.Storage.CacheDirectory", storage.cache_directory),
    ):
        found = [problem for problem in problems if problem.startswith(option)]
        yield from (failed(name, problem) for problem in found)
        yield from (warning(name, sentence) for sentence in advice if sentence.startswith(option))
        if not found:
            how = "is writable" if folder.exists() else "can be made"
            yield passed(name, f"{folder} ({file_system(folder)}) {how}")
    yield from _formats(storage)
    legacy = storage.storage_structure is StorageStructure.LEGACY
    yield from (failed("Spool folder", problem) for problem in check_structure(storage.spool_directory, legacy=legacy))
    left_behind = check_left_behind(storage.index_directory, storage.spool_directory)
    yield from (failed("Spool folder", problem) for problem in left_behind)
    if storage.storage_directory:
        wrong = check_storage_directory(storage.storage_directory)
        name = "Storage folder"
        yield failed(name, wrong[0]) if wrong else passed(name, f"{storage.storage_directory} is writable")
    if not problems:
        yield _space(storage)
    if settings.worklists.directory:
        yield _worklists(settings.worklists.directory)


def _formats(storage: StorageSettings) -> Iterator[Outcome]:
    for folder, kind in formats(storage.spool_directory, storage.cache_directory).items():
        try:
            kind.check(folder)
        except UnusableFormat as error:
            yield failed("Folder format", str(error))


def _space(storage: StorageSettings) -> Outcome:
    """Whether spool and cache can both grow to their maximum, with what they hold already."""
    needed: dict[int, int] = {}
    free: dict[int, int] = {}
    for folder, maximum in (
        (storage.spool_directory, storage.maximum_spool_size),
        (storage.cache_directory, storage.maximum_cache_size),
    ):
        present = nearest(folder)
        device = present.stat().st_dev
        free[device] = shutil.disk_usage(present).free
        needed[device] = needed.get(device, 0) + max(0, maximum - _held(folder))
    for device, size in needed.items():
        if size > free[device]:
            return warning(
                "Free space",
                f"spool and cache may still grow by {size // MEGABYTE} MB, but {free[device] // MEGABYTE} MB are free; "
                "free some, or lower Isen.Storage.MaximumSpoolSizeMB and MaximumCacheSizeMB",
            )
    return passed("Free space", "is enough for the whole spool and cache")


def _held(folder: Path) -> int:
    """Bytes of all files below a folder; files that go away meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{place}/{name}").st_size
            except OSError:
                continue
    return total


def _worklists(folder: Path) -> Outcome:
    name = "Worklist folder"
    try:
        entries = [entry for entry in folder.iterdir() if entry.suffix == ".wl"]
    except FileNotFoundError:
        return failed(name, f"Isen.Worklists.Directory: {folder} does not exist; make it or name another folder")
    except OSError as error:
        return failed(name, f"Isen.Worklists.Directory: {folder} cannot be listed ({error.strerror}); change its mode")
    unreadable = sum(not os.access(entry, os.R_OK) for entry in entries)
    if unreadable:
        return failed(name, f"{unreadable} of {len(entries)} *.wl files in {folder} cannot be read; change their mode")
    return passed(name, f"{folder} holds {len(entries)} *.wl files")
