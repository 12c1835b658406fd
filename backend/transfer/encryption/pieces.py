"""Streams of objects cut anew, and given on after a look at their start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from backend.transfer.object_store.protocols import Chunk, ObjectAttributes, OpenObject


def pieces(chunks: Iterable[Chunk], *sizes: int) -> Iterator[bytes]:
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
    """An object being read whose first chunks have been looked at."""

    attributes: ObjectAttributes
    first: Sequence[Chunk]
    rest: Iterator[Chunk]

    def chunks(self) -> Iterator[Chunk]:
        yield from self.first
        yield from self.rest


def peek(found: OpenObject, size: int) -> tuple[bytes, Peeked]:
    """The first `size` bytes, fewer if it has fewer, and the whole object still to be read; nothing else is copied."""
    chunks = found.chunks()
    first: list[Chunk] = []
    while sum(map(len, first)) < size and (chunk := next(chunks, None)) is not None:
        first.append(chunk)
    return b"".join(chunk[:size] for chunk in first)[:size], Peeked(found.attributes, first, chunks)
