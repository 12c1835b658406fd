"""What the index keeps beside an attachment: its form, and which bytes it tells from which."""

from __future__ import annotations

import os
from hashlib import sha256

import pytest

from backend.custom_data import CHUNK, LARGE, CustomData, NotOurCustomData

KEY = "hospital/ct/11111111-2222-3333-4444-555555555555.dcm"
CONTENT = os.urandom(LARGE + CHUNK // 2)
KNOWN = CustomData.of(CONTENT, KEY)


@pytest.mark.parametrize("content", [b"", b"image", CONTENT[:LARGE], CONTENT])
def test_what_is_encoded_is_decoded(content: bytes) -> None:
    known = CustomData.of(content, KEY)
    assert CustomData.decode(known.encode()) == known
    assert (known.size, known.digest, known.key) == (len(content), sha256(content).digest(), KEY)


def test_version_1_keeps_its_form() -> None:
    """Indexes are full of it: another form is another version."""
    assert CustomData.of(b"image", "a/b").encode() == (
        b"Isen\x01" + (5).to_bytes(8, "big") + sha256(b"image").digest() + b"\x00\x03a/b"
    )
    assert KNOWN.encode()[-16:] == sha256(CONTENT[LARGE:]).digest()[:16]


def test_half_a_gigabyte_needs_less_than_forty_kilobytes() -> None:
    assert len(KNOWN.chunk_digests) == 17 * 16
    assert 500_000_000 / CHUNK * 16 < 40_000


def test_an_attachment_of_the_older_api_has_none() -> None:
    assert CustomData.decode(b"") is None


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b'{"another": "plugin"}' * 9, "another plugin"), (b"Isen\x02" + bytes(50), "upgrade"), (b"Isen\x01", "another")],
)
def test_what_is_not_ours_is_refused_with_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(NotOurCustomData, match=sentence):
        CustomData.decode(data)


@pytest.mark.parametrize(
    ("wanted", "chunks"),
    [
        ((0, 1), (0, CHUNK)),
        ((CHUNK - 1, CHUNK), (0, CHUNK)),
        ((CHUNK, CHUNK + 1), (CHUNK, 2 * CHUNK)),
        ((CHUNK - 1, CHUNK + 1), (0, 2 * CHUNK)),
        ((LARGE + 5, LARGE + 6), (LARGE, len(CONTENT))),
        ((0, len(CONTENT)), (0, len(CONTENT))),
    ],
)
def test_a_range_is_widened_to_whole_chunks(wanted: tuple[int, int], chunks: tuple[int, int]) -> None:
    assert KNOWN.chunks_around(*wanted) == chunks
    start, end = chunks
    assert KNOWN.are_chunks(start, CONTENT[start:end])


def test_other_bytes_are_told() -> None:
    for start, end in ((0, CHUNK), (CHUNK, 3 * CHUNK), (LARGE, len(CONTENT))):
        damaged = bytearray(CONTENT[start:end])
        damaged[-1] ^= 1
        assert not KNOWN.are_chunks(start, bytes(damaged))
        assert not KNOWN.are_chunks(start, CONTENT[start : end - 1])
    assert not KNOWN.are_chunks(0, CONTENT[CHUNK : 2 * CHUNK])
    assert not KNOWN.are_chunks(LARGE, CONTENT[LARGE:] + b"more")
    assert not KNOWN.are_chunks(len(CONTENT) + CHUNK, b"beyond the end")
