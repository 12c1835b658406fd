"""A memory store whose next operations can fail, wait, or have something happen in their middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from typing import TYPE_CHECKING

from backend.transfer.object_store.protocols import OpenObject
from tests.fakes.memory_object_store import MemoryObjectStore

if TYPE_CHECKING:
    from config.http.asked import Asked

Act = Callable[[], None]


class UnsteadyStore(MemoryObjectStore):
    """Each list holds what happens at its next operations, in order; an act may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.before_put: list[Act] = []
        self.after_put: list[Act] = []  # the bytes are stored by then
        self.before_get: list[Act] = []
        self.before_delete: list[Act] = []
        self.calls: list[tuple[str, str]] = []

    def put(self, key: str, content: BufferedIOBase, size: int, digest: bytes) -> None:
        self._act("put", key, self.before_put)
        super().put(key, content, size, digest)
        if self.after_put:
            self.after_put.pop(0)()

    @contextmanager
    def get(self, key: str, asked: Asked | None = None) -> Iterator[OpenObject]:  # type: ignore[override]  # the Protocol's type, not the memory store's
        self._act("get", key, self.before_get)
        with super().get(key, asked) as found:
            yield found

    def get_range(self, key: str, start: int, end: int) -> bytes:
        self._act("get_range", key, self.before_get)
        return super().get_range(key, start, end)

    def delete(self, key: str) -> None:
        self._act("delete", key, self.before_delete)
        super().delete(key)

    def keys(self) -> list[str]:
        return [entry.key for entry in self.list("")]

    def _act(self, operation: str, key: str, acts: list[Act]) -> None:
        self.calls.append((operation, key))
        if acts:
            acts.pop(0)()


def raising(error: Exception) -> Act:
    def act() -> None:
        raise error

    return act
