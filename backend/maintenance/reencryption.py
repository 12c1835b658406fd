"""`isen encrypt`: every object that is not encrypted with the current key, encrypted with it, while Orthanc works.

An object is read, verified against the index, and put again under its key; the server replaces it in one step, so it is
never absent. What is done already is not done again, so a run that was interrupted goes on where it ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import md5, sha256
from tempfile import SpooledTemporaryFile
from typing import Final

from backend.maintenance.findings import Finding, Kind
from backend.maintenance.index import IndexedAttachment
from backend.maintenance.local import Place
from backend.maintenance.patience import patiently
from backend.maintenance.progress import Progress, with_each
from backend.maintenance.set_up import Archive
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectError, ObjectMissing

_IN_MEMORY: Final = 16 * 1024 * 1024  # bytes; a larger attachment goes to a nameless file in TMPDIR


class Reencryption:
    """One run; for one thread."""

    def __init__(
        self, archive: Archive, encryption: str, *, parallel: int, on_progress: Callable[[Progress], None]
    ) -> None:
        """`encryption` is what the store says of objects that are encrypted with the current key."""
        self.counts: Counter[str] = Counter()  # "current", "encrypted", "pending", "removed" (by Orthanc), "failed"
        self._archive = archive
        self._encryption = encryption
        self._parallel = parallel
        self._on_progress = on_progress

    def run(self, on_failure: Callable[[Finding], None]) -> None:
        """Encrypt what is not; each attachment that could not be is told.

        Raises:
            OrthancUnavailable, ObjectStoreError, OSError: it could not be finished.
        """
        outcomes = with_each(
            self._archive.index,
            self._attempt,
            parallel=self._parallel,
            step="Encrypting",
            on_progress=self._on_progress,
        )
        for attachment, outcome in outcomes:
            if isinstance(outcome, ObjectError):
                key = self._archive.naming.key(attachment.name)
                on_failure(Finding(Kind.UNREADABLE, attachment.name, key, str(outcome), attachment.path))
            self.counts["failed" if isinstance(outcome, ObjectError) else outcome] += 1

    def _attempt(self, attachment: IndexedAttachment) -> str | ObjectError:
        try:
            return patiently(lambda: self._encrypt(attachment))
        except ObjectMissing as error:
            if self._archive.local.has(attachment.name, Place.PENDING, Place.INCOMING):
                return "pending"
            return error if self._is_referred_to(attachment) else "removed"
        except ObjectError as error:
            return error if self._is_referred_to(attachment) else "removed"

    def _encrypt(self, attachment: IndexedAttachment) -> str:
        store, key = self._archive.store, self._archive.naming.key(attachment.name)
        if store.head(key).encryption == self._encryption:
            return "current"
        with SpooledTemporaryFile(_IN_MEMORY) as content:
            from_index, digest = md5(usedforsecurity=False), sha256()
            with store.get(key) as found:
                for chunk in found.chunks():
                    content.write(chunk)
                    from_index.update(chunk)
                    digest.update(chunk)
            if (
                content.tell() != attachment.size
                or found.attributes.digest not in (None, digest.digest())
                or attachment.md5 not in ("", from_index.hexdigest())
            ):
                raise ObjectCorrupted(f"{attachment.name} has other bytes than were stored")
            if not self._is_referred_to(attachment):
                return "removed"
            store.put(key, content, attachment.size, digest.digest())  # type: ignore[arg-type]  # it reads and seeks
        if not self._is_referred_to(attachment):  # its removal may have come before our upload
            store.delete(key)
            return "removed"
        return "encrypted"

    def _is_referred_to(self, attachment: IndexedAttachment) -> bool:
        return self._archive.index.refers_to(attachment.name, attachment.path)
