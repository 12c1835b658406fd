"""Streams of objects cut anew, and given on after a look at their start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backend.transfer.object_store.protocols import ObjectAttributes


def pieces(chunks: Iterable[bytes], *sizes: int) -> Iterator[bytes]:
    """The same bytes cut anew: into pieces of `sizes`, none of them 0; the last one repeats until the end."""
    buffer = bytearray()
    wanted = iter(sizes)
    size = next(wanted)
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start >= size:
            yield bytes(memoryview(buffer)[start : start + size])
            start += size
            size = next(wanted, size)
        del buffer[:start]
    if buffer:
        yield bytes(buffer)


@dataclass(frozen=True)
class Peeked:
    """An object being read whose first piece has been looked at."""

    attributes: ObjectAttributes
    start: bytes
    rest: Iterator[bytes]

    def chunks(self) -> Iterator[bytes]:
        if self.start:
            yield self.start
        yield from self.rest
