"""Whether S3 holds an attachment: asked of S3 alone, by size and checksum."""

from __future__ import annotations

from hashlib import md5, sha256

import pytest

from backend.atomic_file import write_digest
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import GET, ObservedObjectStore
from backend.transfer.confirmer import Confirmer, Expected
from backend.transfer.encryption.store import EncryptedObjectStore
from backend.transfer.object_store.errors import AccessDenied, ObjectCorrupted, Unreachable
from tests.fakes.encryption import SECRETS, encrypted, flipped, keyring, put, read
from tests.unit.backend.transfer.conftest import Parts

NAME = "6a0c1e5e-94a5-4d7a-b1c7-6f1c5f1d2a30.dcm"
CONTENT = b"an image" * 1000
DIGEST = sha256(CONTENT).digest()
MD5 = md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def confirmer(parts: Parts) -> Confirmer:
    store = ObservedObjectStore(parts.store, parts.availability)
    return Confirmer(parts.spool.directory, parts.folder / "cache", store, str, parts.availability)


def state(confirmer: Confirmer, *, size: int = len(CONTENT), digest: str = MD5) -> str:
    (answer,) = confirmer.confirm([Expected(NAME, size, digest)])
    return answer


def test_the_object_with_the_right_md5_is_committed(parts: Parts, confirmer: Confirmer) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    assert state(confirmer) == "committed"


def test_without_an_object_it_is_missing_even_if_the_cache_has_it(parts: Parts, confirmer: Confirmer) -> None:
    parts.cached(NAME).parent.mkdir(parents=True, exist_ok=True)
    parts.cached(NAME).write_bytes(CONTENT)
    assert state(confirmer) == "missing"


@pytest.mark.parametrize("folder", ["pending", "incoming"])
def test_what_is_in_the_spool_is_pending(parts: Parts, confirmer: Confirmer, folder: str) -> None:
    parts.file(folder, NAME).write_bytes(CONTENT)
    parts.store.put_foreign(NAME, CONTENT)  # an upload that was answered and is not noted yet may be repeated
    assert state(confirmer) == "pending"


def test_what_is_in_quarantine_is_never_committed(parts: Parts, confirmer: Confirmer) -> None:
    """A server that has stopped verifying may have taken its bytes, with the digest they should have."""
    parts.file("quarantine", NAME).write_bytes(CONTENT)
    parts.store.put_foreign(NAME, CONTENT, DIGEST)
    assert state(confirmer) == "corrupted"


def test_what_orthanc_has_removed_is_missing(parts: Parts, confirmer: Confirmer) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    parts.spool.bury(NAME)
    assert state(confirmer) == "missing"


def test_another_size_is_corrupted(parts: Parts, confirmer: Confirmer) -> None:
    parts.store.put_foreign(NAME, CONTENT[:-1], DIGEST)
    assert state(confirmer) == "corrupted"


def test_another_md5_and_no_digest_is_corrupted(parts: Parts, confirmer: Confirmer) -> None:
    """The bytes decide: an ETag need not be an MD5."""
    parts.store.put_foreign(NAME, CONTENT[:-1] + b"x")
    assert state(confirmer) == "corrupted"


def test_an_etag_that_is_no_md5_leads_to_the_digest_beside_the_object(parts: Parts, confirmer: Confirmer) -> None:
    """Multipart uploads and server-side encryption have such ETags; Orthanc may also keep no MD5."""
    parts.store.put_foreign(NAME, CONTENT, DIGEST)
    assert state(confirmer, digest="") == "committed"


def test_without_any_checksum_nothing_is_committed(parts: Parts, confirmer: Confirmer) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    assert state(confirmer, digest="") == "corrupted"


def test_a_digest_that_is_not_that_of_the_cached_bytes_is_corrupted(parts: Parts, confirmer: Confirmer) -> None:
    parts.store.put_foreign(NAME, CONTENT, sha256(b"other").digest())
    parts.cached(NAME).parent.mkdir(parents=True, exist_ok=True)
    parts.cached(NAME).write_bytes(CONTENT)
    write_digest(parts.cached(NAME), DIGEST)
    assert state(confirmer, digest="") == "corrupted"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(Unreachable("away"), "unavailable"), (AccessDenied("no"), "unavailable"), (ObjectCorrupted("cut"), "corrupted")],
)
def test_a_store_that_cannot_be_asked_is_told_apart(
    parts: Parts, confirmer: Confirmer, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def fail(_key: str) -> None:
        raise error

    monkeypatch.setattr(parts.store, "head", fail)
    assert state(confirmer) == expected


def test_while_s3_is_away_the_answer_comes_at_once(parts: Parts, confirmer: Confirmer) -> None:
    """Two hundred time-outs in a row would keep the asker waiting for minutes."""
    parts.store.put_foreign(NAME, CONTENT)
    parts.availability.failed(GET, Unreachable("away"))
    assert state(confirmer) == "unavailable"


def test_a_question_is_read_as_the_worker_sends_it() -> None:
    fields = {"Name": NAME, "Size": "5", "MD5": "AB" * 16}
    assert Expected.of(fields) == Expected(NAME, 5, "ab" * 16)
    with pytest.raises(KeyError):
        Expected.of({"Name": NAME})


def test_states_come_in_the_order_of_the_question(parts: Parts, confirmer: Confirmer) -> None:
    names = [NAME.replace("6a0c", f"{number:04x}") for number in range(30)]
    for name in names[::2]:
        parts.store.put_foreign(name, CONTENT)
    states = confirmer.confirm([Expected(name, len(CONTENT), MD5) for name in names])
    assert states == ["committed", "missing"] * 15


def test_what_is_still_to_be_migrated_is_pending_and_never_committed(parts: Parts) -> None:
    """Only what S3 holds counts, but the migration may still bring it there."""
    store = ObservedObjectStore(parts.store, parts.availability)
    folder = StorageDirectory(parts.folder / "storage")
    arguments = (parts.spool.directory, parts.folder / "cache", store, str, parts.availability)
    hybrid = Confirmer(*arguments, migrating_from=folder)
    assert state(hybrid) == "missing"
    folder.directory.mkdir()
    folder.recover()
    folder.write(NAME, CONTENT, DIGEST)
    assert state(hybrid) == "pending"
    assert state(Confirmer(*arguments)) == "missing"  # nothing is on its way: WriteToFileSystem, or no HybridMode
    parts.store.put_foreign(NAME, CONTENT)
    assert state(hybrid) == "committed"


def test_an_encrypted_object_is_committed_by_what_its_header_proves(parts: Parts) -> None:
    """A key that is not here says nothing about the object: the question is asked again."""
    ours = encrypted(parts.store)
    put(ours, NAME, CONTENT)
    body = read(parts.store, NAME)

    def confirmer_of(store: EncryptedObjectStore) -> Confirmer:
        observed = ObservedObjectStore(store, parts.availability)
        return Confirmer(parts.spool.directory, parts.folder / "cache", observed, str, parts.availability)

    assert state(confirmer_of(ours)) == "committed"
    assert state(confirmer_of(ours), size=len(body)) == "corrupted"
    assert state(confirmer_of(encrypted(parts.store, keyring("2025", **{"2025": SECRETS["2025"]})))) == "unavailable"
    for altered in (body[:-1], flipped(body, 150), CONTENT):
        parts.store.put_foreign(NAME, altered, sha256(altered).digest())
        assert state(confirmer_of(ours)) == "corrupted"
