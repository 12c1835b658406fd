"""`isen migrate --remove-copied`: files of Orthanc's own storage area go, once the bucket is known to have their bytes.

Proof, the cheapest first: the object's ETag is the MD5 in Orthanc's index; or the SHA-256 it was stored with is that of
the file, and the file has the index's MD5; or its bytes are read and have that MD5. What is not proved is kept.
Files that the index does not know are not touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from backend.maintenance.content import compare
from backend.maintenance.findings import Finding, Kind
from backend.maintenance.index import IndexedAttachment
from backend.maintenance.local import LocalFile, Place, is_copy
from backend.maintenance.patience import patiently
from backend.maintenance.progress import Progress, with_each
from backend.maintenance.set_up import Archive
from backend.storage_directory import StorageDirectory
from backend.transfer.object_store.errors import ObjectError, ObjectMissing


class StillInUse(Exception):
    """The files must stay: whoever reads them does not read the bucket."""


class Release:
    """One run; for one thread."""

    def __init__(
        self,
        archive: Archive,
        directory: Path,
        *,
        parallel: int,
        read_data: bool,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """`directory` is Orthanc's StorageDirectory; with `read_data` only the object's own bytes are proof."""
        self.counts: Counter[str] = Counter()  # "removed files", "kept files"
        self._archive = archive
        self._directory = StorageDirectory(directory)
        self._parallel = parallel
        self._read_data = read_data
        self._on_progress = on_progress

    def check(self) -> None:
        """Look whether the running Orthanc reads the bucket.

        Raises:
            StillInUse: it does not.
            OrthancUnavailable: it cannot be asked.
        """
        storage = self._archive.index.storage_of_isen()
        if storage is None:
            raise StillInUse(
                "--remove-copied: this Orthanc runs without Isen and reads these files; start it with Isen"
            )
        bucket = storage.get("ObjectStore", {}).get("Bucket")
        if bucket != self._archive.bucket:
            raise StillInUse(
                f"--remove-copied: the running Orthanc uses the bucket {bucket!r}, not this configuration's"
            )

    def run(self, on_kept: Callable[[Finding], None]) -> None:
        """Remove what is proved; each file that is kept is told.

        Raises:
            OrthancUnavailable, ObjectStoreError, OSError: it could not be finished.
        """
        outcomes = with_each(
            self._archive.index,
            self._release,
            parallel=self._parallel,
            step="Removing files",
            on_progress=self._on_progress,
        )
        for attachment, kept in outcomes:
            if kept is not None:
                self.counts["kept files" if kept else "removed files"] += 1
            if kept:
                key = self._archive.naming.key(attachment.name)
                on_kept(Finding(Kind.MISSING, attachment.name, key, kept, attachment.path, attachment.size))

    def _release(self, attachment: IndexedAttachment) -> str | None:
        """Why the file is kept; "" if it was removed, None if there was none."""
        file = self._archive.local.find(attachment.name, Place.STORAGE_DIRECTORY)
        if file is None:
            return None
        try:
            doubt = self._doubt(attachment, file)
        except FileNotFoundError:
            return None  # Orthanc has removed it meanwhile
        except ObjectMissing:
            doubt = "the bucket does not have it"
        except ObjectError as error:
            doubt = str(error)
        if not doubt:
            self._directory.remove(attachment.name)
        return doubt

    def _doubt(self, attachment: IndexedAttachment, file: LocalFile) -> str:
        key = self._archive.naming.key(attachment.name)
        found = patiently(lambda: self._archive.store.head(key))
        if found.size != attachment.size:
            return f"the object has {found.size} bytes; the index says {attachment.size}"
        if not self._read_data:
            if attachment.md5 and found.etag.lower() == attachment.md5:
                return ""
            with file.path.open("rb") as content:
                if found.digest and is_copy(content, attachment.size, attachment.md5, found.digest):
                    return ""
        if not attachment.md5:
            return "Orthanc's index has no MD5 of it, so the object cannot be compared"
        return patiently(lambda: compare(self._archive.store, key, attachment.size, attachment.md5)) or ""
