"""The folder of Orthanc's own storage area, read and written beside the bucket while an archive moves (`HybridMode`).

    StorageDirectory/ab/cd/<uuid>          an attachment, of Orthanc's making or ours
    StorageDirectory/isen-incoming/        being written; what a crash left there is swept after an hour

Orthanc without Isen reads what is written here, and the other way round. Beside what Isen has written or copied its
SHA-256 stands (`backend.atomic_file`); what Orthanc has written has none, and is as trustworthy as it was with Orthanc.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

from backend.atomic_file import write_new
from config.folder_format import sync_folder

INCOMING: Final = "isen-incoming"
_ABANDONED_AFTER: Final = 3600.0  # seconds; another Orthanc may share the folder, and be writing


def storage_path(directory: Path, name: str) -> Path:
    """Where Orthanc's own storage area keeps the attachment of this name."""
    return Path(_path(str(directory), name))


class StorageDirectory:
    """Thread-safe for distinct names, which Orthanc guarantees; other processes may use the folder."""

    def __init__(self, directory: Path) -> None:
        """Nothing is made or touched yet."""
        self.directory = directory
        self._text = str(directory)  # text for what happens with every image: path objects showed in its profile
        self._known = bytearray(0x10000)  # 1 for each folder `ab/cd` whose entries above are on stable storage
        self._making = threading.Lock()

    def recover(self) -> None:
        """Make the folder for what is being written, and sweep what was never finished.

        Raises:
            OSError: the disk cannot be written.
        """
        incoming = self.directory / INCOMING
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in os.scandir(incoming):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > _ABANDONED_AFTER:
                    os.unlink(entry.path)

    def open(self, name: str) -> int | None:
        """A read-only descriptor of the attachment, or None if it is not here.

        Raises:
            OSError: the disk failed, so nobody can say.
        """
        try:
            return os.open(_path(self._text, name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        """Whether the attachment is here."""
        return os.path.exists(_path(self._text, name))

    def write(self, name: str, content: bytes, digest: bytes) -> None:
        """Store `content` so that it survives a power cut, then return. `digest` is its SHA-256.

        Raises:
            OSError: the disk failed; nothing is stored under this name.
        """
        temporary = self.temporary()
        write_new(temporary, content, digest, durable=True)
        self.publish(name, temporary)

    def temporary(self) -> str:
        """A path on this file system that nobody else has."""
        return f"{self._text}/{INCOMING}/{uuid4().hex}"

    def publish(self, name: str, temporary: str) -> None:
        """Give a synced file of `temporary` its place, durably.

        Raises:
            OSError: the disk failed; the file is gone, and nothing is stored under this name.
        """
        path = _path(self._text, name)
        folder = os.path.dirname(path)
        try:
            self._make(folder)
            os.rename(temporary, path)
            sync_folder(folder)
        except BaseException:
            for left in (temporary, path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)
            raise

    def remove(self, name: str) -> None:
        """After this the attachment is not here, not even after a power cut; it need not have been.

        Raises:
            OSError: the disk failed.
        """
        path = _path(self._text, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(os.path.dirname(path))

    def _make(self, folder: str) -> None:
        """Have `ab/cd` on stable storage, whoever made it: Orthanc does not sync its folders.

        Raises:
            OSError: the disk failed.
        """
        shard, inner = folder[-5:-3], folder[-2:]
        number = int(shard + inner, 16)
        if self._known[number] and os.path.isdir(folder):
            return
        with self._making:
            os.makedirs(folder, mode=0o755, exist_ok=True)
            sync_folder(os.path.dirname(folder))
            sync_folder(self._text)
            self._known[number] = 1


def _path(directory: str, name: str) -> str:
    return f"{directory}/{name[0:2]}/{name[2:4]}/{name.partition('.')[0]}"
