"""Storage commitment requests from their N-ACTION to the delivered report, in files that survive a restart.

    requests/<name>   owed a report; whoever works on it holds a lock on the file
    outcomes/<name>   what the report will say, once every instance is decided
    finished/<name>   empty: reported; the Transaction UID may not be used again (PS3.4 J.3.3.1.2)
    received/<name>   reports of others, see `scp.storage_commitment.received`
    lock              held by the worker that looks after all requests

Names are made by `file_name` from the calling AE title and the Transaction UID, so that two workers cannot both accept
one transaction.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from scp.durable_folder import DurableFolder, file_name
from scp.statuses import RESOURCE_LIMITATION, Refusal

MAXIMUM_OPEN: Final = 10_000  # transactions
_REQUESTS: Final = "requests"
_OUTCOMES: Final = "outcomes"
_FINISHED: Final = "finished"
_REMEMBERED: Final = 30 * 86400.0  # seconds a used Transaction UID is known

Failures = dict[str, int]  # SOP Instance UID: Failure Reason


@dataclass(frozen=True)
class Reference:
    """One item of the Referenced SOP Sequence."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Transaction:
    """What a peer asked, and where the report goes."""

    transaction_uid: str
    references: tuple[Reference, ...]
    modality: str  # its name in DicomModalities: the report goes to its address, whatever that is then
    calling_ae_title: str
    called_ae_title: str  # under which the report is sent
    received_at: float  # Unix time
    is_duplicate: bool = False  # its Transaction UID is in use, or was

    def encode(self) -> bytes:
        references = [[one.sop_class_uid, one.sop_instance_uid] for one in self.references]
        return json.dumps({**asdict(self), "references": references}).encode()

    @classmethod
    def decode(cls, content: bytes) -> Transaction:
        fields = json.loads(content)
        return cls(**{**fields, "references": tuple(Reference(*pair) for pair in fields["references"])})

    def is_repetition_of(self, other: Transaction) -> bool:
        """The same request: a peer that missed our response sends it again."""
        return self.references == other.references and self.modality == other.modality


class Transactions:
    """Thread-safe, and shared by the workers."""

    def __init__(self, directory: Path) -> None:
        self._folder = DurableFolder(directory, _REQUESTS, _OUTCOMES, _FINISHED)

    def accept(self, transaction: Transaction) -> str:
        """Keep the request; it will be answered once this returns, whatever happens. Returns its name.

        A Transaction UID that this peer has used for another request, or for one that has been reported, is kept too:
        PS3.3 C.14.1.1 has a Failure Reason for it.

        Raises:
            Refusal: the disk is full, or too many requests are open.
        """
        if self._folder.count(_REQUESTS) >= MAXIMUM_OPEN:
            raise Refusal(RESOURCE_LIMITATION, "too many storage commitment requests are open")
        name = file_name(transaction.calling_ae_title, transaction.transaction_uid)
        try:
            if self._folder.read(_FINISHED, name) is None:
                with contextlib.suppress(FileExistsError):
                    self._folder.add(_REQUESTS, name, transaction.encode())
                    return name
                known = self._folder.read(_REQUESTS, name)
                if known is not None and transaction.is_repetition_of(Transaction.decode(known)):
                    return name
            name = file_name(name, uuid4().hex)
            self._folder.add(_REQUESTS, name, Transaction(**{**vars(transaction), "is_duplicate": True}).encode())
        except OSError as error:
            raise Refusal(RESOURCE_LIMITATION, "the request cannot be kept") from error
        return name

    def names(self) -> list[str]:
        """All that is owed a report, the oldest first."""
        return self._folder.names(_REQUESTS)

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[Transaction | None]:
        """The request, for us alone while the block runs; None if another has it or it is finished."""
        path = self._folder.directory / _REQUESTS / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            yield self._locked(descriptor, name)
        finally:
            os.close(descriptor)

    def outcome(self, name: str) -> Failures | None:
        """What was settled, or None."""
        content = self._folder.read(_OUTCOMES, name)
        return None if content is None else dict(json.loads(content))

    def settle(self, name: str, failures: Failures) -> None:
        """Keep what the report says: it must not change when the report is repeated."""
        self._folder.put(_OUTCOMES, name, json.dumps(failures).encode())

    def finish(self, name: str) -> None:
        """The report has been delivered, or given up."""
        self._folder.put(_FINISHED, name, b"")
        self._folder.remove(_REQUESTS, name)
        self._folder.remove(_OUTCOMES, name)

    def forget_old(self) -> None:
        """Drop what need not be known any more."""
        for name in self._folder.names(_FINISHED):
            if time.time() - self._folder.changed_at(_FINISHED, name) > _REMEMBERED:
                self._folder.remove(_FINISHED, name)

    def wait_for_turn(self) -> int:
        """Wait until no other worker looks after the requests; the descriptor keeps them away while it is open."""
        descriptor = os.open(self._folder.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _locked(self, descriptor: int, name: str) -> Transaction | None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        content = self._folder.read(_REQUESTS, name)  # it may have been finished before we had the lock
        return None if content is None else Transaction.decode(content)
