"""Whether the object store works, per operation: what the report says, and who has to wait.

A failure that would happen to every key pauses its operation. `Recovery` then tries with a canary, alone and with
back-off, so that an outage of hours costs the server one request now and then instead of one per attachment; success
lets everybody go on at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any, Final

from backend.transfer.object_store.errors import (
    ContentChanged,
    ObjectArchived,
    ObjectCorrupted,
    ObjectMissing,
    ObjectOfAnotherKey,
    ObjectStoreError,
    ObjectUnencrypted,
)
from backend.transfer.object_store.protocols import ObjectAttributes, ObjectStore, OpenObject

if TYPE_CHECKING:
    from config.http.asked import Asked

log = logging.getLogger(__name__)

PUT: Final = "PutObject"
GET: Final = "GetObject"
DELETE: Final = "DeleteObject"
_IN_A_ROW: Final = 4  # failures of single objects after which all are taken to be concerned
# the server works, this object does not
_ABOUT_THE_OBJECT: Final = (
    *(ObjectMissing, ObjectArchived, ObjectCorrupted, ContentChanged),
    *(ObjectOfAnotherKey, ObjectUnencrypted),
)


class Availability:
    """Remembers the last word on each operation. Thread-safe."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when the state has changed, without locks held."""
        self._changed = threading.Condition()
        self._errors: dict[str, ObjectStoreError] = {}
        self._failed_at: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._state = "Available"
        self._since = time.time()
        self._on_change = on_change

    def succeeded(self, operation: str) -> None:
        if operation not in self._errors and not self._in_a_row.get(operation):
            return  # nearly always, and without the lock
        with self._changed:
            self._in_a_row[operation] = 0
            self._errors.pop(operation, None)
            self._changed.notify_all()
        self._tell()

    def failed(self, operation: str, error: ObjectStoreError) -> None:
        if isinstance(error, _ABOUT_THE_OBJECT):
            return
        with self._changed:
            self._in_a_row[operation] = self._in_a_row.get(operation, 0) + 1
            self._failed_at[operation] = time.monotonic()
            if error.concerns_all or self._in_a_row[operation] >= _IN_A_ROW:
                self._errors[operation] = error
                self._changed.notify_all()
        self._tell()

    @contextmanager
    def observing(self, operation: str) -> Iterator[None]:
        """Note how the block ends."""
        try:
            yield
        except ObjectStoreError as error:
            self.failed(operation, error)
            raise
        self.succeeded(operation)

    def error(self, operation: str) -> ObjectStoreError | None:
        """Why the operation is paused, or None if it is not."""
        return self._errors.get(operation)

    def failed_within(self, operation: str, seconds: float) -> bool:
        """Whether it is paused and somebody has tried in vain so recently."""
        return operation in self._errors and time.monotonic() - self._failed_at[operation] < seconds

    def wait(self, operation: str, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the operation is not paused; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: operation not in self._errors, timeout)

    def wait_for_trouble(self, timeout: float) -> ObjectStoreError | None:
        """Wait up to `timeout` seconds for anything to be paused, and say why."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._errors), timeout)
            return self._first_error()

    def report(self) -> dict[str, Any]:
        with self._changed:
            error = self._first_error()
            return {"State": self._state, "Reason": str(error) if error else "", "Since": self._since}

    def _first_error(self) -> ObjectStoreError | None:
        return next((self._errors[name] for name in (PUT, GET, DELETE) if name in self._errors), None)

    def _tell(self) -> None:
        with self._changed:
            error = self._first_error()
            state = error.state if error else "Available"
            if state == self._state:
                return
            lasted = time.time() - self._since
            log.log(
                logging.WARNING if error else logging.INFO,
                "object_store_state state=%s before=%s for=%.0fs reason=%s",
                state,
                self._state,
                lasted,
                error or "",
            )
            self._state = state
            self._since = time.time()
        self._on_change()


class ObservedObjectStore:
    """The operations every attachment needs, of any store; how they end goes to `Availability`."""

    def __init__(self, store: ObjectStore, availability: Availability) -> None:
        self._store = store
        self._availability = availability

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        with self._availability.observing(PUT):
            self._store.put(key, content, size, digest)

    def ask(self, key: str, *, may_connect: bool = False) -> Asked | None:
        return self._store.ask(key, may_connect=may_connect)

    def get(self, key: str, asked: Asked | None = None) -> AbstractContextManager[OpenObject]:
        return self._get(key, asked)

    def head(self, key: str) -> ObjectAttributes:
        with self._availability.observing(GET):  # S3 asks for the same permission, and from the same servers
            return self._store.head(key)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        with self._availability.observing(GET):
            return self._store.get_range(key, start, end)

    @contextmanager
    def _get(self, key: str, asked: Asked | None) -> Iterator[OpenObject]:
        with self._availability.observing(GET), self._store.get(key, asked) as found:
            yield found

    def delete(self, key: str) -> None:
        with self._availability.observing(DELETE):
            self._store.delete(key)
