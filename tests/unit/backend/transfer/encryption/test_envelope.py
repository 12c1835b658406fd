"""The format: what was altered, cut, moved or swapped is refused, and any range is the plaintext's slice."""

from __future__ import annotations

import zlib
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.custom_data import CHUNK as CUSTOM_DATA_CHUNK
from backend.transfer.encryption import envelope as format_1
from backend.transfer.encryption.envelope import CHUNK, HEADER, STORED_CHUNK, plaintext_sizes, stored_size
from backend.transfer.object_store.errors import ObjectCorrupted, ObjectError, ObjectOfAnotherKey
from tests.fakes.encryption import SECRETS, encrypted, keyring, put, read
from tests.fakes.memory_object_store import MemoryObjectStore

NAME = "0b6bd1c2-4b2e-4a5d-8f7e-000000000001.dcm"
OTHER = "0b6bd1c2-4b2e-4a5d-8f7e-000000000002.dcm"
SIZES = (0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 77)


def plaintext(size: int, seed: int = 0) -> bytes:
    return (sha256(bytes([seed])).digest() * (size // 32 + 1))[:size]


@cache
def stored(size: int, name: str = NAME, seed: int = 0) -> bytes:
    """An encrypted object as it lies in the bucket."""
    store = MemoryObjectStore()
    put(encrypted(store), name, plaintext(size, seed))
    return read(store, name)


def opened(body: bytes, name: str = NAME) -> bytes:
    """What the object of these bytes gives to whoever asks for `name`."""
    store = MemoryObjectStore()
    store.put_foreign(name, body)
    return read(encrypted(store), name)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_is_opened_and_is_not_to_be_seen(size: int) -> None:
    body = stored(size)
    assert opened(body) == plaintext(size)
    assert len(body) == stored_size(size)
    assert plaintext_sizes(len(body)) == (size,)
    assert size < 1000 or plaintext(size)[:32] not in body
    assert sha256(plaintext(size)).digest() not in body


def test_the_same_twice_has_nothing_in_common() -> None:
    first, second = MemoryObjectStore(), MemoryObjectStore()
    for store in (first, second):
        put(encrypted(store), NAME, bytes(1000))
    one, other = read(first, NAME)[58 + 8 :], read(second, NAME)[58 + 8 :]
    assert sum(a == b for a, b in zip(one, other, strict=True)) < len(one) / 50


@pytest.mark.parametrize("size", [*range(HEADER + 16), HEADER + STORED_CHUNK + 1, HEADER + STORED_CHUNK + 15])
def test_sizes_that_no_encrypted_object_has(size: int) -> None:
    assert plaintext_sizes(size) == ()


@given(size=st.integers(0, 2**40))
def test_the_size_of_the_plaintext_follows_from_that_of_the_object(size: int) -> None:
    assert plaintext_sizes(stored_size(size)) == (size,)


@given(size=st.sampled_from(SIZES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(size: int, place: float, bit: int) -> None:
    body = bytearray(stored(size))
    body[int(place * len(body))] ^= 1 << bit
    with pytest.raises(ObjectError):
        opened(bytes(body))


@given(position=st.integers(0, HEADER - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_header_is_corruption_and_never_a_wrong_key(position: int, bit: int) -> None:
    body = bytearray(stored(1000))
    body[position] ^= 1 << bit
    if position >= len(format_1.MAGIC):  # else it is an unencrypted object, and refused as such
        with pytest.raises(ObjectCorrupted):
            opened(bytes(body))


@given(position=st.integers(len(format_1.MAGIC), HEADER - 5), bit=st.integers(0, 7))
def test_a_forger_who_mends_the_checksum_of_the_header_is_refused_too(position: int, bit: int) -> None:
    body = bytearray(stored(1000))
    body[position] ^= 1 << bit
    body[HEADER - 4 : HEADER] = zlib.crc32(body[: HEADER - 4]).to_bytes(4, "big")
    with pytest.raises((ObjectCorrupted, ObjectOfAnotherKey)):
        opened(bytes(body))


@given(size=st.sampled_from(SIZES), left=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(size: int, left: float) -> None:
    body = stored(size)
    with pytest.raises(ObjectError):
        opened(body[: int(left * len(body))])


@pytest.mark.parametrize("size", [2 * CHUNK, 2 * CHUNK + 77])
def test_truncation_between_chunks_is_refused_even_where_the_size_is_not_looked_at(size: int) -> None:
    """As by a reader of a stream: the last chunk is marked as such."""
    body = stored(size)
    envelope = format_1.unseal(body[:HEADER], NAME, keyring())
    shorter = format_1.unseal(stored(CHUNK)[:HEADER], NAME, keyring())
    assert shorter.count == 1
    with pytest.raises(ObjectCorrupted):
        list(envelope.decrypt_all(envelope.count - 1, body[HEADER : HEADER + STORED_CHUNK]))


@pytest.mark.parametrize("added", [b"\0", bytes(STORED_CHUNK)])
def test_something_behind_the_end_is_refused(added: bytes) -> None:
    with pytest.raises(ObjectCorrupted):
        opened(stored(CHUNK) + added)


def test_swapped_and_repeated_chunks_are_refused() -> None:
    body = stored(2 * CHUNK + 77)
    header, first, second, last = body[:HEADER], *(body[HEADER + n * STORED_CHUNK :][:STORED_CHUNK] for n in range(3))
    assert opened(header + first + second + last)
    for chunks in (second + first + last, first + first + last, second + second + last):
        with pytest.raises(ObjectCorrupted):
            opened(header + chunks)


def test_a_chunk_or_the_header_of_another_object_is_refused() -> None:
    """Of the same size, the same name and the same key."""
    one, other = stored(2 * CHUNK), stored(2 * CHUNK, seed=1)
    for forged in (one[:HEADER] + other[HEADER:], one[: HEADER + STORED_CHUNK] + other[HEADER + STORED_CHUNK :]):
        with pytest.raises(ObjectCorrupted):
            opened(forged)


def test_an_object_in_the_place_of_another_is_refused() -> None:
    with pytest.raises(ObjectCorrupted, match="another attachment"):
        opened(stored(1000, OTHER))


def test_bucket_and_prefix_may_change() -> None:
    store = MemoryObjectStore()
    store.put_foreign(f"new/prefix/{NAME}", stored(1000))
    assert read(encrypted(store), f"new/prefix/{NAME}") == plaintext(1000)


@given(size=st.sampled_from(SIZES[1:]), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_any_range_is_the_slice(size: int, ends: tuple[float, float]) -> None:
    start, end = sorted(int(end * size) for end in ends)
    start = min(start, size - 1)
    end = max(end, start + 1)
    store = MemoryObjectStore()
    store.put_foreign(NAME, stored(size))
    assert encrypted(store).get_range(NAME, start, end) == plaintext(size)[start:end]


@given(start=st.integers(0, 2 * CHUNK + 76), length=st.integers(1, 1000), place=st.floats(0, 1, exclude_max=True))
def test_a_range_is_right_or_refused_whatever_was_altered(start: int, length: int, place: float) -> None:
    size = 2 * CHUNK + 77
    body = bytearray(stored(size))
    body[int(place * len(body))] ^= 1
    store = MemoryObjectStore()
    store.put_foreign(NAME, bytes(body))
    end = min(size, start + length)
    try:
        assert encrypted(store).get_range(NAME, start, end) == plaintext(size)[start:end]
    except ObjectError:
        pass


def test_chunks_are_those_whose_digests_the_index_keeps() -> None:
    """So that a range that Orthanc verifies costs no byte more than it needs."""
    assert CHUNK == CUSTOM_DATA_CHUNK


def test_the_commitment_is_looked_at() -> None:
    """A data key that two master keys unwrap differently would pass AES-GCM; so the data key itself is committed to."""
    body = bytearray(stored(1000))
    other = stored(1000, seed=1)
    body[190:222] = other[190:222]
    body[222:226] = zlib.crc32(body[:222]).to_bytes(4, "big")
    with pytest.raises(ObjectCorrupted, match="commit"):
        opened(bytes(body))


def test_a_format_of_the_future_asks_for_an_upgrade() -> None:
    body = bytearray(stored(10))
    body[8] = 2
    body[222:226] = zlib.crc32(body[:222]).to_bytes(4, "big")
    with pytest.raises(ObjectOfAnotherKey, match=r"format 2\.1.*upgrade"):
        opened(bytes(body))


def test_no_secret_shows_in_what_python_prints() -> None:
    envelope = format_1.seal(keyring().current, NAME, 0, sha256(b"").digest())
    for secret in SECRETS.values():
        assert repr(secret)[2:-1] not in repr(keyring().current) + repr(envelope)
