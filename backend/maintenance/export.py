"""`isen migrate --back`: every attachment as a file of Orthanc's own storage area, so that Orthanc can do without Isen.

What is there with the right size is left alone, so a run that was interrupted goes on where it ended. Orthanc may read,
write and remove in the same folder meanwhile (`HybridMode`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import md5, sha256
from pathlib import Path

from backend.atomic_file import write_digest
from backend.maintenance.findings import Finding, Kind
from backend.maintenance.index import IndexedAttachment
from backend.maintenance.local import Place
from backend.maintenance.patience import patiently
from backend.maintenance.progress import Progress, with_each
from backend.maintenance.set_up import Archive
from backend.storage_directory import StorageDirectory, storage_path
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectError
from backend.transfer.object_store.protocols import Chunk


class Export:
    """One run; for one thread."""

    def __init__(
        self, archive: Archive, directory: Path, *, parallel: int, on_progress: Callable[[Progress], None]
    ) -> None:
        """`directory` is Orthanc's StorageDirectory."""
        self.counts: Counter[str] = Counter()  # "present", "written", "removed" (by Orthanc meanwhile), "failed"
        self._archive = archive
        self._directory = StorageDirectory(directory)
        self._parallel = parallel
        self._on_progress = on_progress

    def run(self, on_failure: Callable[[Finding], None]) -> None:
        """Write what is not there yet; each attachment that could not be had is told.

        Raises:
            OrthancUnavailable, ObjectStoreError, OSError: it could not be finished.
        """
        self._directory.recover()
        outcomes = with_each(
            self._archive.index,
            self._write,
            parallel=self._parallel,
            step="Writing files",
            on_progress=self._on_progress,
        )
        for attachment, outcome in outcomes:
            if isinstance(outcome, ObjectError):
                key = self._archive.naming.key(attachment.name)
                on_failure(Finding(Kind.MISSING, attachment.name, key, str(outcome), attachment.path))
            self.counts["failed" if isinstance(outcome, ObjectError) else outcome] += 1

    def _write(self, attachment: IndexedAttachment) -> str | ObjectError:
        with suppress(FileNotFoundError):
            if storage_path(self._directory.directory, attachment.name).stat().st_size == attachment.size:
                return "present"
        temporary = self._directory.temporary()
        try:
            patiently(lambda: self._fetch(attachment, Path(temporary)))
            self._directory.publish(attachment.name, temporary)
        except ObjectError as error:
            return error if self._is_wanted(attachment) else "removed"
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        if not self._is_wanted(attachment):  # its removal may have come before the file
            self._directory.remove(attachment.name)
            return "removed"
        return "written"

    def _is_wanted(self, attachment: IndexedAttachment) -> bool:
        return self._archive.index.refers_to(attachment.name, attachment.path)

    def _fetch(self, attachment: IndexedAttachment, path: Path) -> None:
        """Write the bytes to `path`, verified and synced; from the spool if they are not in the bucket yet."""
        stored, from_index = sha256(), md5(usedforsecurity=False)
        with path.open("wb") as file:

            def take(chunk: Chunk) -> None:
                file.write(chunk)
                stored.update(chunk)
                from_index.update(chunk)

            pending = self._archive.local.find(attachment.name, Place.PENDING)
            digest = pending.digest if pending else None
            try:
                content = pending.path.read_bytes() if pending else None
            except FileNotFoundError:
                content = None  # it has just been uploaded
            if content is not None:
                take(content)
            else:
                with self._archive.store.get(self._archive.naming.key(attachment.name)) as found:
                    digest = found.attributes.digest
                    for chunk in found.chunks():
                        take(chunk)
            write_digest(file.fileno(), stored.digest())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if (
            size != attachment.size
            or digest not in (None, stored.digest())
            or attachment.md5 not in ("", from_index.hexdigest())
        ):
            raise ObjectCorrupted(f"{attachment.name} has other bytes than were stored")
