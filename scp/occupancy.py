"""How many associations every worker holds, in memory that all of them share.

Limits per process are not limits of the service: one that is full must know whether the others are, because a peer
past the limit is to be rejected ("local limit exceeded") and not left waiting. The plugin makes one anonymous file and
hands it to every worker; each writes only its own part, so nothing has to be locked:

    per worker   room, connections, associations, then for each association a hash of its address and of its AE title

Without such a file the worker counts itself alone.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading

_HEADER = 3  # numbers before the entries
_ENTRY = 2
_NUMBER = 8  # bytes


class Occupancy:
    """This worker's part, and a view of the others'. Thread-safe."""

    def __init__(self, worker: int, workers: int, room: int, total: int, descriptor: int | None) -> None:
        """`worker` counts from 0; `room` is this worker's share of the `total` associations of the service."""
        self._stride = _HEADER + _ENTRY * total
        size = workers * self._stride * _NUMBER
        if descriptor is None:
            memory = mmap.mmap(-1, size)
        else:
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)  # filled with zeros, the same for whoever comes first
            memory = mmap.mmap(descriptor, size)
        self._numbers = memoryview(memory).cast("Q")
        self._base = worker * self._stride
        self._workers = workers
        self._total = total
        self._room = room
        self._entries: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._write(room, 0)

    @property
    def associations(self) -> int:
        """Of this worker."""
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """This worker has its share and should leave waiting connections to the others."""
        return self.associations >= self._room

    def is_service_full(self) -> bool:
        """No worker has room: a connection that waits now can only be rejected."""
        return all(self._at(worker, 0) <= self._at(worker, 2) for worker in range(self._workers))

    def is_busier_than_others(self) -> bool:
        """Whether another worker with room has less to do than this one."""
        mine = self._numbers[self._base + 1] + self._numbers[self._base + 2]
        return any(
            self._at(worker, 0) > self._at(worker, 2) and self._at(worker, 1) + self._at(worker, 2) < mine
            for worker in range(self._workers)
            if worker * self._stride != self._base
        )

    def admit(self, address: str, ae_title: str, per_address: int, per_ae_title: int) -> tuple[int, int] | None:
        """Count an association in, for `leave`; None when the service, this address or this AE title has its share.

        Two workers that admit at the same instant may pass a limit by one each.
        """
        entry = (_hash(address), _hash(ae_title))
        with self._lock:
            everyone = [self._at(worker, 2) for worker in range(self._workers)]
            if sum(everyone) >= self._total or len(self._entries) >= self._total:
                return None
            if per_address and self._count(entry[0], 0) >= per_address:
                return None
            if per_ae_title and self._count(entry[1], 1) >= per_ae_title:
                return None
            self._entries.append(entry)
            self._publish()
            return entry

    def leave(self, entry: tuple[int, int]) -> None:
        with self._lock:
            self._entries.remove(entry)
            self._publish()

    def set_connections(self, count: int) -> None:
        """Connections without an association; only `is_busier_than_others` looks at it."""
        self._numbers[self._base + 1] = count

    def close(self) -> None:
        """This worker takes no more: others need not leave anything to it."""
        with self._lock:
            self._room = 0
            self._numbers[self._base] = 0

    def _at(self, worker: int, number: int) -> int:
        return self._numbers[worker * self._stride + number]

    def _count(self, value: int, column: int) -> int:
        found = 0
        for worker in range(self._workers):
            start = worker * self._stride + _HEADER
            entries = self._numbers[start : start + _ENTRY * self._at(worker, 2)]
            found += entries[column::_ENTRY].tolist().count(value)
        return found

    def _publish(self) -> None:
        start = self._base + _HEADER
        for offset, entry in enumerate(self._entries):
            self._numbers[start + _ENTRY * offset], self._numbers[start + _ENTRY * offset + 1] = entry
        self._write(self._room, self._numbers[self._base + 1])

    def _write(self, room: int, connections: int) -> None:
        self._numbers[self._base] = room
        self._numbers[self._base + 1] = connections
        self._numbers[self._base + 2] = len(self._entries)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.upper().encode(), digest_size=8).digest(), "little")
