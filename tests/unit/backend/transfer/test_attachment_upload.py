from __future__ import annotations

import os
import time

import pytest

from backend.transfer.attachment_upload import StagedUploads
from backend.transfer.availability import PUT
from backend.transfer.object_store.errors import AccessDenied, ObjectMissing, ServerFailed, Unreachable
from config.folder_format import DIGEST_ATTRIBUTE
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import Parts

NAME = name_of(1)
CONTENT = content_of(1)


def test_what_is_pending_is_in_the_bucket_and_the_cache_afterwards(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.upload.upload_pending(NAME)
    assert parts.store.get_range(NAME, 0, len(CONTENT)) == CONTENT
    assert not parts.file("pending", NAME).exists()
    assert parts.cached(NAME).read_bytes() == CONTENT
    assert parts.counters.snapshot()["uploads"] == 1
    assert parts.counters.snapshot()["upload_bytes"] == len(CONTENT)


def test_a_failure_leaves_it_pending(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.store.before_put = [raising(Unreachable("away"))]
    with pytest.raises(Unreachable):
        parts.upload.upload_pending(NAME)
    assert parts.file("pending", NAME).read_bytes() == CONTENT
    assert not parts.cached(NAME).exists()
    assert parts.counters.snapshot()["upload_failures"] == 1


def test_a_removed_attachment_is_never_uploaded(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.spool.bury(NAME)
    assert parts.upload.upload_pending(NAME) is False
    assert parts.store.calls == []
    assert parts.file("pending", NAME).exists()  # the remover's: the index may know it all the same


@pytest.mark.parametrize("moment", ["before_put", "after_put"])
def test_a_removal_during_the_upload_leaves_the_copies_and_the_object_to_the_remover(parts: Parts, moment: str) -> None:
    parts.spool.accept(NAME, CONTENT)

    def remove() -> None:
        parts.spool.bury(NAME)
        parts.removals.refresh({NAME})
        parts.remover.drop_local()  # the name is held by the upload: it must not get in between

    setattr(parts.store, moment, [remove])
    parts.upload.upload_pending(NAME)
    assert not parts.file("pending", NAME).exists()
    assert parts.dropped == []
    parts.remover.drop_local()
    assert not parts.cached(NAME).exists()
    assert not parts.file("uploaded", NAME).exists()
    time.sleep(0.01)
    parts.remove_due()
    assert parts.store.keys() == []
    assert not parts.file("tombstones", NAME).exists()


def test_an_unconfirmed_upload_restarts_the_grace_period_of_a_removal(parts: Parts) -> None:
    """The server may carry it out late: the delete must come later still."""
    parts.spool.accept(NAME, CONTENT)
    parts.spool.bury(NAME)
    os.utime(parts.file("tombstones", NAME), (1000, 1000))
    parts.file("tombstones", NAME).rename(parts.folder / "tombstone")

    def remove_long_ago() -> None:
        (parts.folder / "tombstone").rename(parts.file("tombstones", NAME))

    parts.store.before_put = [remove_long_ago]
    parts.store.after_put = [raising(Unreachable("no answer"))]
    with pytest.raises(Unreachable):
        parts.upload.upload_pending(NAME)
    assert time.time() - parts.file("tombstones", NAME).stat().st_mtime < 60


def test_a_pending_file_that_vanished_is_no_error(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.upload.upload_pending(NAME)
    assert "pending_vanished" in caplog.text
    assert parts.store.calls == []


def test_a_pending_file_that_vanishes_during_its_upload_is_no_error(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.store.after_put = [parts.file("pending", NAME).unlink]
    parts.upload.upload_pending(NAME)
    assert not parts.cached(NAME).exists()


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT + b"x", b"X" + CONTENT[1:]])
def test_damaged_bytes_are_quarantined_whatever_the_damage(parts: Parts, damage: bytes) -> None:
    parts.spool.accept(NAME, CONTENT)
    with parts.file("pending", NAME).open("r+b") as file:
        file.truncate()
        file.write(damage)
    parts.upload.upload_pending(NAME)
    assert parts.store.keys() == []
    assert parts.file("quarantine", NAME).read_bytes() == damage
    assert not parts.file("pending", NAME).exists()
    assert parts.counters.snapshot()["corrupted"] == 1


def test_without_extended_attributes_the_digest_is_taken_from_the_file(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    os.removexattr(parts.file("pending", NAME), DIGEST_ATTRIBUTE)
    parts.upload.upload_pending(NAME)
    assert parts.store.get_range(NAME, 0, len(CONTENT)) == CONTENT


def test_an_unreadable_spool_file_stays_and_is_no_failure_of_s3(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.spool.accept(NAME, CONTENT)

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", broken)
    with pytest.raises(OSError, match="Input/output"):
        parts.upload.upload_pending(NAME)
    assert parts.file("pending", NAME).exists()
    assert parts.availability.report()["State"] == "Available"


def staged(parts: Parts) -> StagedUploads:
    parts.spool.stage(NAME, CONTENT)
    return StagedUploads(parts.upload, parts.availability, 2)


def test_staged_is_tried_again_until_it_is_confirmed(parts: Parts) -> None:
    uploads = staged(parts)
    parts.store.before_put = [raising(ServerFailed("500")), raising(ServerFailed("500"))]
    uploads.upload(NAME, 10)
    assert parts.store.keys() == [NAME]
    assert not parts.file("incoming", NAME).exists()


def test_staged_fails_at_once_when_time_cannot_help(parts: Parts) -> None:
    uploads = staged(parts)
    parts.store.before_put = [raising(AccessDenied("policy"))]
    began = time.monotonic()
    with pytest.raises(AccessDenied):
        uploads.upload(NAME, 10)
    assert time.monotonic() - began < 2
    assert parts.file("incoming", NAME).exists()


def test_staged_waits_for_a_paused_store_no_longer_than_its_time(parts: Parts) -> None:
    uploads = staged(parts)
    parts.availability.failed(PUT, Unreachable("the reason"))
    began = time.monotonic()
    with pytest.raises(Unreachable, match="the reason"):
        uploads.upload(NAME, 0.3)
    assert 0.3 <= time.monotonic() - began < 2
    assert parts.store.calls == []


def test_staged_that_was_given_up_is_an_error_even_if_it_arrived(parts: Parts) -> None:
    uploads = staged(parts)
    parts.store.after_put = [lambda: parts.spool.bury(NAME)]
    with pytest.raises(ObjectMissing):
        uploads.upload(NAME, 10)
    parts.removals.refresh({NAME})
    parts.remover.drop_local()
    assert not parts.cached(NAME).exists()


def test_staged_asked_again_after_a_lost_answer_is_confirmed_by_the_cache(parts: Parts) -> None:
    uploads = staged(parts)
    uploads.upload(NAME, 10)
    uploads.upload(NAME, 10)
    with pytest.raises(FileNotFoundError):
        uploads.upload(name_of(2), 1)


def test_staged_asked_again_is_confirmed_only_once_its_name_outlives_a_power_cut(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer process that uploaded it was killed before it synced the folder."""
    uploads = staged(parts)
    uploads.upload(NAME, 10)
    synced: list[str] = []
    monkeypatch.setattr(parts.uploaded, "sync", lambda: synced.append("uploaded"))
    uploads.upload(NAME, 10)
    assert synced == ["uploaded"]


def test_staged_waits_for_a_place_no_longer_than_its_time(parts: Parts) -> None:
    uploads = staged(parts)
    for _ in range(2):
        uploads._slots.acquire()
    with pytest.raises(Unreachable, match="too many"):
        uploads.upload(NAME, 0.1)


def test_staged_that_was_given_up_before_it_began_is_not_uploaded(parts: Parts) -> None:
    uploads = staged(parts)
    parts.spool.bury(NAME)
    with pytest.raises(ObjectMissing):
        uploads.upload(NAME, 10)
    assert parts.store.calls == []


def test_a_pause_that_ends_as_its_reason_is_asked_for_is_no_pause(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = staged(parts)
    monkeypatch.setattr(parts.availability, "wait", lambda *_: False)
    uploads.upload(NAME, 10)
    assert parts.store.keys() == [NAME]


def test_what_is_uploaded_keeps_a_second_name_that_no_eviction_takes_away(parts: Parts) -> None:
    parts.spool.accept(NAME, CONTENT)
    parts.upload.upload_pending(NAME)
    with parts.cache._lock:
        parts.cache._evict(0)
    assert not parts.cached(NAME).exists()
    assert parts.file("uploaded", NAME).read_bytes() == CONTENT


def test_the_second_name_is_durable_before_a_sender_is_told(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 has the bytes; after a power cut the name tells that Orthanc's index must have a row of it."""
    uploads = staged(parts)
    synced: list[str] = []

    def sync() -> None:
        assert parts.file("uploaded", NAME).exists()
        synced.append(NAME)

    monkeypatch.setattr(parts.uploaded, "sync", sync)
    uploads.upload(NAME, 10)
    assert synced == [NAME]


def test_a_file_system_without_links_does_not_keep_the_spool_from_emptying(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        for number in (1, 2):
            parts.spool.accept(name_of(number), CONTENT)
            assert parts.upload.upload_pending(name_of(number))
    assert caplog.text.count("uploaded_not_kept") == 1
    parts.spool.accept(name_of(3), CONTENT)
    assert parts.upload.upload_pending(name_of(3))
    assert parts.cached(name_of(3)).exists()
