"""Where repair looks for good copies of what the bucket lost: this machine, folders with copies, other buckets.

Nothing is taken on trust: a copy is good if it has the size and the MD5 in Orthanc's index, or the SHA-256 it was
stored with. A folder may have the layout of Orthanc's StorageDirectory, of a bucket, of Isen's spool or of its cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Final, Protocol

from backend.atomic_file import read_digest
from backend.maintenance.findings import Finding, Kind
from backend.maintenance.local import LocalFiles, Place, is_copy
from backend.maintenance.patience import patiently
from backend.object_key import DICOM, DICOM_AS_JSON, DICOM_UNTIL_PIXEL_DATA, attachment_name, object_key
from backend.storage_directory import storage_path
from backend.transfer.object_store.errors import ObjectError
from backend.transfer.object_store.protocols import GetObject

_PLACES: Final = (Place.PENDING, Place.CACHE, Place.UPLOADED, Place.QUARANTINE, Place.STORAGE_DIRECTORY)


class Copies(Protocol):
    """One place with copies."""

    def of(self, finding: Finding) -> Iterator[tuple[str, BufferedIOBase]]:
        """Where there is a good copy, and its bytes; each is closed when the next is asked for.

        Raises:
            ObjectStoreError, OSError: the place cannot be asked at all.
        """
        ...


@dataclass(frozen=True)
class LocalCopies:
    """The spool, the cache and, if it has a part, the StorageDirectory of this machine."""

    local: LocalFiles

    def of(self, finding: Finding) -> Iterator[tuple[str, BufferedIOBase]]:
        for place in _PLACES:
            file = self.local.find(finding.name, place)
            if file is not None:
                # in quarantine the digest beside a file counts for nothing
                yield from _good(file.path, finding, trusts_digest=finding.kind is not Kind.QUARANTINED)


@dataclass(frozen=True)
class FolderCopies:
    """A folder that an operator names: a backup, a disk of another machine, a bucket copied to a disk."""

    folder: Path

    def of(self, finding: Finding) -> Iterator[tuple[str, BufferedIOBase]]:
        candidates = [storage_path(self.folder, finding.name), self.folder / finding.key]
        for name in _names(finding.name):
            candidates += [self.folder / name, self.folder / name[:2] / name]
        for path in dict.fromkeys(candidates):
            yield from _good(path, finding, trusts_digest=True)


@dataclass(frozen=True)
class BucketCopies:
    """Another bucket, with the same attachments below a prefix and in a structure of its own."""

    bucket: str
    store: GetObject
    root_path: str
    legacy: bool

    def of(self, finding: Finding) -> Iterator[tuple[str, BufferedIOBase]]:
        for name in _names(finding.name):
            if ("." in name) == self.legacy:
                continue
            key = object_key(name, root_path=self.root_path, legacy=self.legacy)
            with tempfile.TemporaryFile(prefix="isen-") as file:
                try:
                    digest = patiently(partial(self._fetch, key, file))
                except ObjectError:
                    continue  # it is not there, or damaged
                if is_copy(file, finding.size, finding.md5, digest):
                    yield f"{self.bucket}/{key}", file

    def _fetch(self, key: str, file: BufferedIOBase) -> bytes | None:
        """Write the object to the file; the SHA-256 it was stored with."""
        file.seek(0)
        file.truncate()
        with self.store.get(key) as found:
            file.writelines(found.chunks())
        file.flush()
        return found.attributes.digest


def _names(name: str) -> Iterator[str]:
    """What an attachment may be called: its name here first, and those of the other structure."""
    uuid = name.partition(".")[0]
    kinds = (DICOM, DICOM_UNTIL_PIXEL_DATA, DICOM_AS_JSON, 0)
    others = [uuid] if "." in name else [attachment_name(uuid, kind, legacy=False) for kind in kinds]
    yield from (name, *others)


def _good(path: Path, finding: Finding, *, trusts_digest: bool) -> Iterator[tuple[str, BufferedIOBase]]:
    try:
        with path.open("rb") as content:
            digest = read_digest(content.fileno()) if trusts_digest else None
            if is_copy(content, finding.size, finding.md5, digest):
                yield str(path), content
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return  # evicted meanwhile, or never there
