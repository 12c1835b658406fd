"""Attachments as Orthanc sees them: create, read, remove, over spool, cache and transfer process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from backend.atomic_file import read_all, read_digest
from backend.cache import cache_path, open_cached
from backend.plugin.transfer_client import TransferClient, TransferError
from backend.spool import Spool

FETCH_TIMEOUT: Final = 120.0  # seconds for a whole object; the transfer process gives up earlier when S3 is away


class CorruptedAttachment(Exception):
    """The bytes at hand are not the bytes that were stored; they are not served."""


class Attachments:
    """The storage area. Thread-safe for distinct names."""

    def __init__(
        self, spool: Spool, cache: Path, transfer: TransferClient, *, log_error: Callable[[str], None]
    ) -> None:
        self._spool = spool
        self._cache = cache
        self._transfer = transfer
        self._log_error = log_error
        self._counts = threading.Lock()
        self.counters = {"reads_spool": 0, "reads_cache": 0, "reads_s3": 0, "creates": 0, "removes": 0, "corrupted": 0}

    def create_in_spool(self, name: str, content: bytes) -> None:
        """Durability "Spool": durable on the local disk when this returns.

        Raises:
            SpoolFull: nothing was stored.
            OSError: the disk failed; nothing was stored.
        """
        self._spool.accept(name, content)
        self._transfer.wake()
        self._count("creates")

    def create_in_object_store(self, name: str, content: bytes, timeout: float) -> None:
        """Durability "ObjectStore": S3 has confirmed it when this returns.

        Raises:
            SpoolFull, OSError: nothing was stored.
            TransferError: S3 has not confirmed it within `timeout` seconds. Should it arrive later all the same, the
                tombstone left here has it deleted.
        """
        self._spool.stage(name, content)
        try:
            self._transfer.upload(name, timeout)
        except BaseException:
            self._spool.bury(name)
            self._spool.discard(name, len(content))
            self._transfer.wake()
            raise
        self._spool.confirmed(len(content))
        self._count("creates")

    def read(self, name: str) -> bytes:
        """The whole attachment, verified against its SHA-256 where it is known.

        Raises:
            TransferError: it is not here and could not be fetched; `kind` says why.
            CorruptedAttachment: the only copy is damaged.
        """
        content = self._read_spool(name)
        if content is None:
            content = self._read_cache(name)
        if content is None:
            content = self._read_object(name)
        return content

    def remove(self, name: str) -> None:
        """Orthanc no longer refers to it: durable when this returns; the object goes later.

        Raises:
            OSError: the disk failed; the object may stay in the bucket.
        """
        self._spool.bury(name)
        self._transfer.wake()
        self._count("removes")

    def _read_spool(self, name: str) -> bytes | None:
        descriptor = self._spool.open(name)
        if descriptor is None:
            return None
        content = self._verified(descriptor)
        if content is None:
            self._count("corrupted")
            raise CorruptedAttachment(f"the spool's copy of {name} is damaged and S3 has no other")
        self._count("reads_spool")
        return content

    def _read_cache(self, name: str) -> bytes | None:
        descriptor = open_cached(self._cache, name)
        if descriptor is None:
            return None
        content = self._verified(descriptor)
        if content is None:
            self._count("corrupted")
            self._log_error(f"cache_corrupted name={name} action=fetch_again")
            cache_path(self._cache, name).unlink(missing_ok=True)
            return None
        self._count("reads_cache")
        return content

    def _read_object(self, name: str) -> bytes:
        descriptor = self._transfer.fetch(name, FETCH_TIMEOUT)
        content = self._verified(descriptor)
        if content is None:
            self._count("corrupted")
            raise CorruptedAttachment(f"the fetched copy of {name} is damaged: check the disk of CacheDirectory")
        self._count("reads_s3")
        return content

    @staticmethod
    def _verified(descriptor: int) -> bytes | None:
        """Read, check and close; None if the bytes do not have the digest."""
        try:
            content = read_all(descriptor)
            digest = read_digest(descriptor)
        finally:
            os.close(descriptor)
        if digest is not None and sha256(content).digest() != digest:
            return None
        return content

    def _count(self, counter: str) -> None:
        with self._counts:
            self.counters[counter] += 1


__all__ = ["FETCH_TIMEOUT", "Attachments", "CorruptedAttachment", "TransferError"]
