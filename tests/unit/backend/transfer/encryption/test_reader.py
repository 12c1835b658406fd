"""Encrypting while it is read: bounded memory, and never two plaintexts under one nonce."""

from __future__ import annotations

import io
import tracemalloc
from hashlib import file_digest, sha256
from pathlib import Path

import pytest

from backend.transfer.encryption.envelope import CHUNK, Envelope, seal, stored_size
from backend.transfer.encryption.reader import EncryptedContent
from backend.transfer.object_store.errors import ContentChanged
from tests.fakes.encryption import keyring

SMALL = 3 * CHUNK + 5  # kept in memory
LARGE = 40 * CHUNK + 5  # encrypted anew


def envelope_of(body: bytes) -> Envelope:
    return seal(keyring().current, "name", len(body), sha256(body).digest())


@pytest.mark.parametrize("size", [0, 1, SMALL, LARGE])
def test_it_reads_the_same_each_time_and_however_much_at_a_time(size: int) -> None:
    body = bytes(size)
    content = EncryptedContent(io.BytesIO(body), envelope_of(body), "name")
    assert content.readable()
    assert content.size == stored_size(size)
    whole = content.read()
    assert (len(whole), sha256(whole).digest()) == (content.size, content.digest)
    assert content.read(1) == b""
    content.seek(0)
    parts = []
    while part := content.read(100_001):
        parts.append(part)
    assert b"".join(parts) == whole
    content.seek(0)
    assert file_digest(content, "sha256").digest() == content.digest  # type: ignore[arg-type]  # it has readinto
    content.seek(0)
    assert content.read(None) == whole


def test_it_can_be_read_from_its_start_only() -> None:
    content = EncryptedContent(io.BytesIO(b""), envelope_of(b""), "name")
    for place in ((1, io.SEEK_SET), (0, io.SEEK_END)):
        with pytest.raises(io.UnsupportedOperation):
            content.seek(*place)


@pytest.mark.parametrize("wrong", [b"", b"X" * SMALL, b"\0" * (SMALL - 1)])
def test_a_file_that_is_not_what_its_digest_says_is_not_encrypted(wrong: bytes) -> None:
    with pytest.raises(ContentChanged):
        EncryptedContent(io.BytesIO(wrong), envelope_of(bytes(SMALL)), "name")


def test_a_large_file_that_is_altered_between_two_readings_is_not_given_out(tmp_path: Path) -> None:
    """It would be encrypted with the nonces of the first reading, which then would protect neither."""
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE))
    with path.open("r+b", buffering=0) as raw:
        content = EncryptedContent(io.BufferedReader(raw), envelope_of(bytes(LARGE)), "name")
        raw.seek(20 * CHUNK)
        raw.write(b"X")
        assert len(content.read(20 * CHUNK)) == 20 * CHUNK
        with pytest.raises(ContentChanged):
            content.read()


def test_a_large_file_that_gets_shorter_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE))
    with path.open("rb") as file:
        content = EncryptedContent(file, envelope_of(bytes(LARGE)), "name")
        path.write_bytes(b"")
        with pytest.raises(ContentChanged):
            content.read()


def test_a_large_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    size = 200 * 1024 * 1024
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(size)
    digest = sha256()
    for _ in range(200):
        digest.update(bytes(1024 * 1024))
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            content = EncryptedContent(file, seal(keyring().current, "name", size, digest.digest()), "name")
            count = 0
            while part := content.read(1024 * 1024):
                count += len(part)
        assert count == stored_size(size)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
