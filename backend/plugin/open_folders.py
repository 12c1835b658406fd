"""The folders that images are kept in, opened at Orthanc's start: all are looked at before one of them is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backend.folders import check_folders, check_storage_directory, check_structure
from backend.plugin.configuration import ConfigurationRefused
from backend.spool import Spool
from backend.spool_note import check_left_behind, note_spool, noted_spool
from backend.storage_directory import StorageDirectory
from config.folder_format import FILE as FORMAT
from config.folder_format import SPOOL, formats

_LOCK_PATIENCE: Final = 10.0  # seconds; the transfer process of a killed Orthanc lets go of the spool within one


@dataclass(frozen=True)
class Folders:
    """As they are while Orthanc runs."""

    spool: Spool
    lock: int  # descriptor; the spool is ours until every process that has it ends
    cache: Path
    storage_directory: StorageDirectory | None  # with HybridMode
    index_directory: Path | None  # with SQLite

    def note_spool(self) -> None:
        """Have the next start with this index know which spool it was used with.

        Raises:
            OSError: the note could not be written.
        """
        note_spool(self.index_directory, self.spool.directory)


def open_folders(host: Any, storage: dict[str, Any]) -> Folders:
    """Bring the folders up to this version, take the spool's lock and recover what was under way.

    `storage` is the section of the resolved settings.

    Raises:
        ConfigurationRefused: they cannot be used; nothing was touched.
        UnusableFormat: one is of another version or kind; nothing was touched.
        SpoolInUse: another Orthanc has the spool.
        OSError: the disk failed.
    """
    spool_directory, cache_directory = Path(storage["SpoolDirectory"]), Path(storage["CacheDirectory"])
    index_directory = Path(storage["IndexDirectory"]) if storage["IndexDirectory"] else None
    storage_directory = StorageDirectory(Path(storage["StorageDirectory"])) if storage["StorageDirectory"] else None
    problems = check_folders(spool_directory, cache_directory, volatile_allowed=storage["AllowVolatileSpool"])
    problems += check_left_behind(index_directory, spool_directory)
    problems += check_structure(spool_directory, legacy=storage["StorageStructure"] == "legacy")
    if storage_directory:
        problems += check_storage_directory(storage_directory.directory)
    if problems:
        raise ConfigurationRefused("\n".join(problems))
    kinds = formats(spool_directory, cache_directory)
    for folder, kind in kinds.items():
        kind.check(folder)
    _tell_of_new_spool(host, spool_directory, index_directory)
    if not spool_directory.exists():
        SPOOL.adopt(spool_directory)
    spool = Spool(spool_directory, storage["MaximumSpoolSize"], log_error=host.LogError, log_warning=host.LogWarning)
    lock = spool.lock(_LOCK_PATIENCE)
    for folder in (spool_directory, cache_directory):
        kinds[folder].adopt(folder)
    pending = spool.recover()
    if storage_directory:
        storage_directory.recover()
    if pending:
        host.LogWarning(f"spool_recovered pending={pending} bytes={spool.used}")
    return Folders(spool, lock, cache_directory, storage_directory, index_directory)


def _tell_of_new_spool(host: Any, spool_directory: Path, index_directory: Path | None) -> None:
    note = noted_spool(index_directory)
    # with an identity the one before was seen, and holds nothing
    if note and not note.identity and not (spool_directory / FORMAT).exists():
        host.LogError(
            f"spool_new folder={spool_directory} before={note.path} reason=if the disk of the one before is not "
            "mounted, what it holds is not in S3: stop Orthanc and mount it"
        )
