"""Everything the operators' tools need, from Orthanc's configuration files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backend.maintenance.copies import BucketCopies
from backend.maintenance.index import OrthancIndex
from backend.maintenance.local import LocalFiles
from backend.maintenance.rest import Address, OrthancRest
from backend.object_key import is_attachment_name, object_key
from backend.transfer.encryption.store import label
from backend.transfer.object_store.protocols import ObjectStore
from backend.transfer.stores import open_object_store
from config.loader import Capabilities, load
from config.orthanc_files import read_files
from config.settings import HybridMode, Settings, StorageSettings, StorageStructure

DEFAULT_PARALLEL = 8


class Naming:
    """From attachments' names to objects' keys and back."""

    def __init__(self, storage: StorageSettings) -> None:
        self.legacy = storage.storage_structure is StorageStructure.LEGACY
        self.prefix = f"{storage.root_path}/" if storage.root_path else ""
        self.key = partial(object_key, root_path=storage.root_path, legacy=self.legacy)

    def name(self, key: str) -> str | None:
        """The attachment an object of this key belongs to; None if the key is not one of ours."""
        name = key.rpartition("/")[2]
        return name if is_attachment_name(name) and self.key(name) == key else None


@dataclass(frozen=True)
class Archive:
    """One Orthanc: its index, its bucket, its local folders."""

    index: OrthancIndex
    store: ObjectStore
    local: LocalFiles
    naming: Naming
    bucket: str = ""  # its name
    is_hybrid: bool = False  # HybridMode: what is in StorageDirectory is as good as what is in the bucket
    storage_directory: Path | None = None  # Orthanc's; None unless HybridMode is on or the archive moves
    current_encryption: str = ""  # of objects that are encrypted as the settings say; "" = they do not say


def open_archive(
    paths: list[Path],
    *,
    url: str | None = None,
    parallel: int = DEFAULT_PARALLEL,
    per_second: float = 0.0,
    is_migration: bool = False,
    storage_directory: Path | None = None,
) -> Archive:
    """Read the configuration and open what it names; nothing is asked of Orthanc or S3 yet.

    Args:
        paths: Orthanc's configuration, files or folders.
        url: Orthanc's address, if not the configuration's; it may hold a user name and password.
        parallel: requests at a time, to either.
        per_second: the most requests per second to Orthanc; 0 = no limit.
        is_migration: Orthanc may not use Isen yet, so that there is no spool.
        storage_directory: of Orthanc's own storage area, for a migration without HybridMode.

    Raises:
        ConfigurationError: the configuration cannot be used.
        OrthancUnavailable, FoldersUnreadable, UnusableSettings, CredentialsRefused: something else cannot.
    """
    configuration = read_files(paths, os.environ).configuration
    settings = load(configuration, Capabilities(configuration_path=paths[0].absolute())).settings
    storage = settings.storage
    naming = Naming(storage)
    folder = storage_directory or storage.storage_directory
    address = Address(url) if url else _address(settings, configuration)
    rest = OrthancRest(address, connections=parallel, per_second=per_second)
    return Archive(
        OrthancIndex(rest, legacy=naming.legacy, parallel=parallel),
        open_object_store(storage, parallel + 1),
        LocalFiles(
            storage.spool_directory,
            storage.cache_directory,
            folder,
            spool_expected=not is_migration,
        ),
        naming,
        storage.bucket_name,
        is_hybrid=storage.hybrid_mode is not HybridMode.DISABLED,
        storage_directory=folder,
        current_encryption=label(storage.encryption.current_key) if storage.encryption else "",
    )


def open_bucket_copies(path: Path, parallel: int) -> BucketCopies:
    """Another bucket, from a configuration of Orthanc that names it: its own section `Isen.Storage` is used.

    Raises:
        ConfigurationError, UnusableSettings, CredentialsRefused: it cannot be used.
    """
    capabilities = Capabilities(configuration_path=path.absolute())
    storage = load(read_files([path], os.environ).configuration, capabilities).settings.storage
    legacy = storage.storage_structure is StorageStructure.LEGACY
    return BucketCopies(storage.bucket_name, open_object_store(storage, parallel + 1), storage.root_path, legacy=legacy)


def _address(settings: Settings, configuration: dict[str, Any]) -> Address:
    """This machine's Orthanc, as the first of its `RegisteredUsers` where it asks for one."""
    users = configuration.get("RegisteredUsers")
    user, password = next(iter(users.items()), ("", "")) if isinstance(users, dict) else ("", "")
    return Address(settings.orthanc.url, str(user), str(password), settings.orthanc.ca_certificates)
