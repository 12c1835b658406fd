"""The operators' tools on a bucket of encrypted objects, old unencrypted ones among them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest

from backend.maintenance.catalogue import Catalogue
from backend.maintenance.content import orthanc_id
from backend.maintenance.findings import Deed, Finding, Kind
from backend.maintenance.reencryption import Reencryption
from backend.maintenance.repair import DONE, Repair, RepairOptions
from backend.maintenance.verification import Options, Verification
from backend.maintenance.where import look_up
from backend.transfer.encryption.keys import Keyring
from backend.transfer.encryption.store import label
from backend.transfer.object_store.errors import ObjectMissing
from tests.fakes.encryption import SECRETS, encrypted, flipped, keyring, put, read
from tests.fakes.images import made_up_ct
from tests.unit.backend.maintenance.fake_archive import FakeArchive

CONTENT = b"content" * 1000
DAY = 86400.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.maintenance.patience.back_off", lambda *_, **__: 0.0)


def with_keys(fake: FakeArchive, keys: Keyring | None = None, *, accept_before: float = 0.0) -> None:
    """From now on the tools have these keys; `fake.store` stays the bucket itself."""
    keys = keys or keyring()
    store = encrypted(fake.store, keys, accept_before=accept_before)
    fake.archive = replace(fake.archive, store=store, current_encryption=label(keys.current.id))


def stored(fake: FakeArchive, content: bytes = CONTENT, **options: Any) -> str:
    """An encrypted attachment in index and bucket."""
    name = fake.rest.add(content, **options)
    put(fake.archive.store, name, content)
    return name


def verify(fake: FakeArchive, **options: Any) -> dict[str, Kind]:
    with closing(Catalogue()) as catalogue:
        verification = Verification(fake.archive, catalogue, Options(settle=0.0, parallel=2, **options), lambda _: None)
        verification.run()
        return {finding.name: finding.kind for finding in catalogue.findings()}


def repair(fake: FakeArchive, **options: Any) -> dict[str, tuple[Deed, str]]:
    with closing(Catalogue()) as catalogue:
        verification = Verification(fake.archive, catalogue, Options(settle=0.0, parallel=2), lambda _: None)
        verification.run()
        work = Repair(fake.archive, catalogue, RepairOptions(maximum_share=1.0, **options), lambda _: None)
        work.plan()
        work.apply(100)
        return {action.finding.name: (action.deed, action.outcome) for action in catalogue.actions()}


def encrypt(fake: FakeArchive) -> tuple[dict[str, int], list[Finding]]:
    failures: list[Finding] = []
    run = Reencryption(fake.archive, fake.archive.current_encryption, parallel=2, on_progress=lambda _: None)
    run.run(failures.append)
    return dict(run.counts), failures


@pytest.mark.parametrize("read_data", [False, True])
def test_sound_objects_are_no_findings_encrypted_or_accepted(fake: FakeArchive, read_data: bool) -> None:
    old = fake.stored(CONTENT)
    fake.store.modified[old] = time.time() - DAY
    with_keys(fake, accept_before=time.time() - 1)
    for size in (0, 1, 300_000):
        stored(fake, bytes(size))
    assert verify(fake, read_data=read_data) == {}


def test_a_truncated_an_altered_and_an_unencrypted_object_are_told_apart(fake: FakeArchive) -> None:
    with_keys(fake)
    truncated, altered, unencrypted, foreign = (stored(fake) for _ in range(4))
    fake.store.put_foreign(truncated, read(fake.store, truncated)[:-1])
    fake.store.put_foreign(altered, flipped(read(fake.store, altered), -1))
    fake.store.put_foreign(unencrypted, CONTENT)
    fake.store.put_foreign(foreign, b"short")
    assert verify(fake) == {truncated: Kind.CORRUPTED, foreign: Kind.UNREADABLE, unencrypted: Kind.UNREADABLE}
    assert verify(fake, read_data=True)[altered] is Kind.CORRUPTED


def test_the_etag_of_an_unencrypted_object_still_counts_among_encrypted_ones(fake: FakeArchive) -> None:
    altered = fake.stored(CONTENT)
    fake.put(altered, CONTENT[:-1] + b"x", age=DAY)
    with_keys(fake, accept_before=time.time() - 1)
    for _ in range(5):
        stored(fake)
    assert verify(fake) == {altered: Kind.CORRUPTED}


def test_an_object_of_a_key_that_is_not_here_is_unreadable_and_mended_only_from_a_good_copy(fake: FakeArchive) -> None:
    with_keys(fake, keyring("2025"))
    lost, mendable = stored(fake), stored(fake)
    with_keys(fake, keyring(**{"2026": SECRETS["2026"]}))
    assert verify(fake, read_data=True) == {lost: Kind.UNREADABLE, mendable: Kind.UNREADABLE}
    assert verify(fake) == {}  # the listing shows the right sizes
    fake.store.put_foreign(lost, read(fake.store, lost) + b"x")
    fake.store.put_foreign(mendable, read(fake.store, mendable) + b"x")
    fake.local("cache", mendable, CONTENT)
    assert repair(fake) == {lost: (Deed.NOTHING, ""), mendable: (Deed.UPLOAD, DONE)}
    assert read(fake.archive.store, mendable) == CONTENT


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_orphan_of_a_key_that_is_not_here_is_never_deleted(fake: FakeArchive, is_damaged: bool) -> None:
    """It may be an image, and the key may come back."""
    with_keys(fake, keyring("2025"))
    name = "00000000-0000-4000-8000-000000000000.dcm"
    put(fake.archive.store, name, CONTENT)
    if is_damaged:
        fake.store.put_foreign(name, read(fake.store, name)[:-1])
    fake.store.modified[name] = time.time() - 2 * DAY
    with_keys(fake, keyring(**{"2026": SECRETS["2026"]}))
    assert repair(fake, delete_unknown=True) == {name: (Deed.NOTHING, "")}
    assert read(fake.store, name)


def test_an_orphan_is_recognised_through_its_encryption(fake: FakeArchive) -> None:
    """And is kept if the other object of the same image cannot be read."""
    with_keys(fake)
    file = BytesIO()
    made_up_ct("1.2.3", "1.2.3.4", 1, side=32).save_as(file, enforce_file_format=True)
    content = file.getvalue()
    instance = orthanc_id(content)
    other = stored(fake, content, instance=instance)
    name = "00000000-0000-4000-8000-000000000000.dcm"
    put(fake.archive.store, name, content)
    fake.store.modified[name] = time.time() - 2 * DAY
    sound = read(fake.store, other)
    fake.store.put_foreign(other, sound[:-1])
    fake.store.modified[other] = time.time() - 2 * DAY
    assert repair(fake)[name] == (Deed.NOTHING, "")
    fake.store.put_foreign(other, sound)
    assert repair(fake)[name] == (Deed.DELETE, DONE)
    with pytest.raises(ObjectMissing):
        fake.store.head(name)


def test_where_says_with_which_key(fake: FakeArchive) -> None:
    with_keys(fake)
    name = stored(fake)
    (found,) = look_up(fake.archive, name.removesuffix(".dcm"))
    assert found.document()["Object"]["Encryption"] == "Isen, key 2026"
    assert found.document()["Object"]["Size"] == len(CONTENT)


def test_everything_is_encrypted_with_the_current_key_once(fake: FakeArchive) -> None:
    plain = fake.stored(CONTENT)
    fake.store.modified[plain] = time.time() - DAY
    with_keys(fake, keyring("2025"))
    old = stored(fake)
    with_keys(fake, keyring("2026"), accept_before=time.time() - 1)
    new, large = stored(fake), fake.rest.add(bytes(17 * 1024 * 1024))
    fake.store.put_foreign(large, bytes(17 * 1024 * 1024))
    fake.store.modified[large] = time.time() - DAY
    pending = fake.rest.add(CONTENT)
    fake.local("pending", pending, CONTENT)
    assert encrypt(fake) == ({"encrypted": 3, "current": 1, "pending": 1}, [])
    assert encrypt(fake) == ({"current": 4, "pending": 1}, [])
    with_keys(fake, keyring(**{"2026": SECRETS["2026"]}))
    assert {read(fake.archive.store, name) for name in (plain, old, new)} == {CONTENT}


def test_what_cannot_be_verified_is_not_encrypted(fake: FakeArchive) -> None:
    """It would get a digest of its own, and damage could not be told from what was stored any more."""
    altered, refused, missing = fake.stored(CONTENT), fake.stored(CONTENT), fake.rest.add(CONTENT)
    fake.put(altered, b"x" * len(CONTENT), age=DAY)
    with_keys(fake, accept_before=time.time() - 1)
    before = read(fake.store, altered)
    counts, failures = encrypt(fake)
    assert counts == {"failed": 3}
    assert {failure.name for failure in failures} == {altered, refused, missing}
    assert read(fake.store, altered) == before


@pytest.mark.parametrize("moment", ["head", "get", "put"])
def test_what_orthanc_removes_meanwhile_does_not_come_back(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    name = fake.stored(CONTENT)
    fake.store.modified[name] = time.time() - DAY
    with_keys(fake, accept_before=time.time() - 1)
    put(fake.archive.store, "first", b"so that the keys have been looked up")
    real: Callable[..., Any] = getattr(fake.store, moment)

    def removed(key: str, *arguments: Any) -> Any:
        if key == name:
            fake.rest.forget(name)
            fake.store.delete(name)
        return real(key, *arguments)

    monkeypatch.setattr(fake.store, moment, removed)
    assert encrypt(fake) == ({"removed": 1}, [])
    with pytest.raises(ObjectMissing):
        read(fake.store, name)


def test_an_error_about_what_orthanc_has_removed_is_none(fake: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    name = fake.stored(CONTENT)
    with_keys(fake)
    real = fake.store.head
    monkeypatch.setattr(fake.store, "head", lambda key: (fake.rest.forget(name), real(key))[1])
    assert encrypt(fake) == ({"removed": 1}, [])


def test_what_leaves_the_index_while_it_is_read_is_not_put_again(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.stored(CONTENT)
    fake.store.modified[name] = time.time() - DAY
    with_keys(fake, accept_before=time.time() - 1)
    real = fake.store.get
    monkeypatch.setattr(fake.store, "get", lambda *key: (fake.rest.forget(name), real(*key))[1])
    assert encrypt(fake) == ({"removed": 1}, [])
    assert read(fake.store, name) == CONTENT
