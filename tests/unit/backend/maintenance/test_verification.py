"""What moves while it is looked at is not wrong, and what cannot be asked for is not missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from backend.maintenance.catalogue import Catalogue
from backend.maintenance.findings import Counts, Kind
from backend.maintenance.rest import OrthancUnavailable
from backend.maintenance.verification import Options, Verification
from backend.transfer.object_store.errors import AccessDenied, ObjectArchived, ServerFailed, Unreachable
from backend.transfer.object_store.protocols import UnfinishedUpload
from tests.unit.backend.maintenance.fake_archive import FakeArchive

DAY = 86400.0
OLD = 2 * DAY


def verify(fake: FakeArchive, **options: Any) -> tuple[dict[str, Kind], Counts, list[str]]:
    """Name → kind of all findings, the counts, the notes."""
    with closing(Catalogue()) as catalogue:
        options = {"settle": 0.0, "parallel": 2} | options
        verification = Verification(fake.archive, catalogue, Options(**options), lambda progress: None)
        verification.run()
        return {f.name: f.kind for f in catalogue.findings()}, verification.counts, verification.notes


class Clock:
    """The verification's own; its sleeps take no time, and after the first something has happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
        self.now = 0.0
        self._happens: list[Callable[[], object]] = [happens]
        mine = SimpleNamespace(time=time.time, monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr("backend.maintenance.verification.time", mine)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        while self._happens:
            self._happens.pop()()


def during(monkeypatch: pytest.MonkeyPatch, target: Any, method: str, change: Callable[[], object]) -> None:
    """Have something happen just before `method` of `target` is called for the first time."""
    real, changes = getattr(target, method), iter([change])

    def wrapped(*arguments: Any) -> Any:
        for once in changes:
            once()
            break
        return real(*arguments)

    monkeypatch.setattr(target, method, wrapped)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.maintenance.patience.back_off", lambda *_, **__: 0.0)


def test_an_attachment_uploaded_after_the_listing_is_not_missing(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.rest.add(b"content")
    during(monkeypatch, fake.store, "head", lambda: fake.put(name, b"content"))
    assert verify(fake)[0] == {}


def test_an_attachment_removed_after_the_index_was_read_is_not_missing(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.rest.add(b"content")
    during(monkeypatch, fake.store, "head", lambda: fake.rest.forget(name))
    assert verify(fake)[0] == {}


def test_an_attachment_that_only_the_cache_holds_is_missing_all_the_same(fake: FakeArchive) -> None:
    name = fake.rest.add(b"content")
    fake.local("cache", name, b"content")
    assert verify(fake)[0] == {name: Kind.MISSING}


def test_an_attachment_that_another_node_uploads_meanwhile_is_not_missing(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.rest.add(b"content")
    Clock(monkeypatch, lambda: fake.put(name, b"content"))
    assert verify(fake, settle=30.0)[0] == {}


def test_a_damaged_attachment_in_quarantine_is_named_so(fake: FakeArchive) -> None:
    name = fake.rest.add(b"content")
    fake.local("quarantine", name, b"damaged")
    assert verify(fake)[0] == {name: Kind.QUARANTINED}


def test_an_orphan_is_one_only_after_the_grace_period_and_without_a_tombstone(fake: FakeArchive) -> None:
    old, young, removed, spooled = (fake.rest.add(b"x") for _ in range(4))
    for name, age in ((old, OLD), (young, DAY - 60), (removed, OLD), (spooled, OLD)):
        fake.put(name, b"x", age=age)
    fake.rest.instances.clear()
    fake.local("tombstones", removed, b"")
    fake.local("pending", spooled, b"x")
    found, counts, _ = verify(fake)
    assert found == {old: Kind.ORPHANED}
    assert (counts.young, counts.removed, counts.objects) == (1, 2, 4)


def test_a_removal_that_ends_while_it_is_judged_leaves_no_orphan(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.rest.add(b"x")
    fake.put(name, b"x", age=OLD)
    fake.rest.instances.clear()
    during(monkeypatch, fake.store, "head", lambda: fake.store.delete(name))
    assert verify(fake)[0] == {}


def test_a_removal_whose_tombstone_comes_late_has_time_until_the_end_of_settle(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.rest.add(b"x")
    fake.put(name, b"x", age=OLD)
    fake.rest.instances.clear()

    clock = Clock(monkeypatch, lambda: fake.local("tombstones", name, b""))
    assert verify(fake, settle=30.0)[0] == {}
    assert clock.now == 30.0


def test_objects_and_uploads_of_others_are_left_alone(fake: FakeArchive) -> None:
    fake.stored(b"content")
    for key in ("isen-canary-0123", "a/b.txt", "00/00/00000000-0000-4000-8000-000000000000"):
        fake.put(key, b"x", age=OLD)
    fake.store.uploads.append(UnfinishedUpload("somebody/else.bin", "1", 0.0))
    found, counts, _ = verify(fake)
    assert (found, counts.foreign, counts.objects) == ({}, 3, 1)


def test_an_upload_is_stale_after_the_grace_period(fake: FakeArchive) -> None:
    name = fake.stored(b"content")
    fake.store.uploads += [UnfinishedUpload(name, "1", time.time() - OLD), UnfinishedUpload(name, "2", time.time())]
    assert verify(fake)[0] == {name: Kind.STALE_UPLOAD}


def test_a_server_that_lists_no_uploads_is_noted(fake: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(prefix: str) -> Iterator[UnfinishedUpload]:
        raise AccessDenied("ListMultipartUploads was answered 403")
        yield

    monkeypatch.setattr(fake.store, "list_uploads", denied)
    found, _, notes = verify(fake)
    assert found == {}
    assert "403" in notes[0]


def test_an_etag_that_is_no_md5_costs_one_reading_and_no_alarm(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        fake.stored(bytes([number]))
    monkeypatch.setattr("tests.fakes.memory_object_store._etag", lambda body: "0" * 32)
    found, counts, _ = verify(fake)
    assert found == {}
    assert 1 <= counts.read <= 2 * 4 + 2  # those that were under way already
    monkeypatch.setattr("tests.fakes.memory_object_store._etag", lambda body: "0" * 32 + "-2")
    assert verify(fake)[1].read == 0


def test_a_wrong_etag_is_confirmed_by_reading(fake: FakeArchive) -> None:
    name, other = fake.stored(b"content"), fake.stored(b"another")
    fake.put(name, b"altered")
    found, counts, _ = verify(fake)
    assert found == {name: Kind.CORRUPTED}
    assert counts.read == 1
    assert other not in found


def test_an_archive_class_is_no_corruption(fake: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.stored(b"content")

    def archived(key: str) -> Any:
        raise ObjectArchived(key)

    monkeypatch.setattr(fake.store, "get", archived)
    found, counts, _ = verify(fake, read_data=True)
    assert (found, counts.archived, counts.read) == ({}, 1, 0)


def test_an_object_the_server_cannot_deliver_is_corrupted(fake: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    name = fake.stored(b"content")

    def failed(key: str) -> Any:
        raise ServerFailed("500")

    monkeypatch.setattr(fake.store, "get", failed)
    assert verify(fake, read_data=True)[0] == {name: Kind.CORRUPTED}


@pytest.mark.parametrize("error", [Unreachable("no answer"), AccessDenied("403")])
def test_a_store_that_cannot_be_asked_ends_the_run_and_finds_nothing(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fake.rest.add(b"content")

    def failed(key: str) -> Any:
        raise error

    monkeypatch.setattr(fake.store, "head", failed)
    with pytest.raises(type(error)):
        verify(fake)


def test_one_lost_packet_does_not_end_a_run(fake: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    name = fake.rest.add(b"content")

    def lost() -> None:
        raise Unreachable("lost")

    during(monkeypatch, fake.store, "head", lost)
    assert verify(fake)[0] == {name: Kind.MISSING}


def test_an_orthanc_that_ends_meanwhile_ends_the_run(fake: FakeArchive) -> None:
    fake.rest.add(b"content")

    def gone(path: str) -> None:
        if path.endswith("/info"):
            raise OrthancUnavailable("gone")

    fake.rest.before = gone
    with pytest.raises(OrthancUnavailable):
        verify(fake)


def test_without_md5_in_the_index_the_sha256_of_the_object_counts(fake: FakeArchive) -> None:
    name = fake.stored(b"content")
    for attachments in fake.rest.instances.values():
        attachments["dicom"]["CompressedMD5"] = ""
    assert verify(fake, read_data=True)[0] == {}
    digest = fake.store.head(name).digest
    fake.store.put_foreign(name, b"altered", digest)
    assert verify(fake)[0] == {}  # nothing known tells without reading
    assert verify(fake, read_data=True)[0] == {name: Kind.CORRUPTED}


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_faults_are_all_found_and_nothing_else(fake: FakeArchive, seed: int) -> None:
    """Corrupted, truncated, swapped and missing objects and orphans among sound ones."""
    names = [fake.stored(f"content {number} {seed}".encode()) for number in range(1500)]
    expected = {}
    for number, name in enumerate(names[:1000]):
        content = f"content {number} {seed}".encode()
        match (number + seed) % 5:
            case 0:
                fake.store.delete(name)
                expected[name] = Kind.MISSING
            case 1:
                fake.put(name, content[:-1])
                expected[name] = Kind.TRUNCATED
            case 2:
                fake.store.put_foreign(name, content[:-1] + b"!", fake.store.head(name).digest)
                expected[name] = Kind.CORRUPTED
            case 3:
                fake.put(name, content[::-1])  # sound in itself, but another's
                expected[name] = Kind.CORRUPTED
            case _:
                fake.rest.forget(name)
                fake.store.modified[name] -= OLD
                expected[name] = Kind.ORPHANED
    found, counts, _ = verify(fake)
    assert found == expected
    assert len(expected) == 1000
    assert counts.attachments == 1300
