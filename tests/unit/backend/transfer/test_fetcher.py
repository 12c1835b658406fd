from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from types import SimpleNamespace
from typing import cast

import pytest

from backend.storage_directory import StorageDirectory
from backend.transfer.availability import GET
from backend.transfer.download_file import DownloadFile
from backend.transfer.download_slots import Priority, Rank, Turns
from backend.transfer.downloader import NoRoom
from backend.transfer.object_store.errors import (
    AccessDenied,
    ObjectCorrupted,
    ObjectMissing,
    ObjectOfAnotherKey,
    ObjectStoreError,
    ObjectUnencrypted,
    ServerFailed,
    Throttled,
    Unreachable,
)
from backend.transfer.object_store.protocols import Chunk
from config.http.asked import Asked
from tests.fakes.memory_object_store import _OpenMemoryObject
from tests.fakes.transfer_child import content_of, name_of
from tests.fakes.unsteady_store import raising
from tests.unit.backend.transfer.conftest import MAXIMUM_CACHE, Parts

NAME = name_of(1)
CONTENT = content_of(1, 200_000)


def fetch(parts: Parts, name: str = NAME) -> bytes:
    return content_of_file(parts.fetcher.fetch(name))


def content_of_file(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def open_descriptors() -> set[str]:
    return {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    }


@pytest.fixture
def stored(parts: Parts) -> Parts:
    parts.store.put_foreign(NAME, CONTENT, sha256(CONTENT).digest())
    return parts


def test_it_is_read_from_s3_once_and_then_from_the_cache(stored: Parts) -> None:
    assert fetch(stored) == CONTENT
    assert stored.cached(NAME).read_bytes() == CONTENT
    assert fetch(stored) == CONTENT
    assert stored.store.calls == [("get", NAME)]
    assert stored.cache.report()["Bytes"] == len(CONTENT)


def test_the_cached_file_carries_the_digest_even_of_an_object_without_one(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT)
    assert fetch(parts) == CONTENT
    assert os.getxattr(parts.cached(NAME), "user.isen.sha256") == sha256(CONTENT).digest()


def test_it_leaves_no_descriptor_open(stored: Parts) -> None:
    before = open_descriptors()
    fetch(stored)
    with pytest.raises(ObjectMissing):
        fetch(stored, name_of(2))
    assert open_descriptors() == before


def test_readers_do_not_share_an_offset(stored: Parts) -> None:
    barrier = threading.Barrier(8)

    def read(_: int) -> bytes:
        barrier.wait(10)
        return fetch(stored)

    stored.store.before_get = [lambda: time.sleep(0.3)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [CONTENT] * 8
    assert stored.store.calls == [("get", NAME)]


@pytest.mark.parametrize("turns", [1, 2])
def test_what_arrives_together_is_written_in_turn(parts: Parts, monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """Otherwise the first would be ready when the last is."""
    parts.fetcher._slots.turns = Turns(turns)
    for number in range(4):
        parts.store.put_foreign(name_of(number), content_of(number, 100_000))
    write = DownloadFile.write
    counting = threading.Lock()
    at_work = most = 0

    def slow_write(file: DownloadFile, chunk: Chunk) -> None:
        nonlocal at_work, most
        with counting:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.1)
        write(file, chunk)
        with counting:
            at_work -= 1

    monkeypatch.setattr(DownloadFile, "write", slow_write)
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(lambda number: fetch(parts, name_of(number)), range(4)))
    assert contents == [content_of(number, 100_000) for number in range(4)]
    assert most == turns


def test_only_what_was_downloaded_is_known_to_be_verified(stored: Parts) -> None:
    descriptor = stored.fetcher.fetch(NAME)
    assert stored.fetcher.just_verified.take(NAME, descriptor)
    os.close(descriptor)
    descriptor = stored.fetcher.fetch(NAME)  # from the cache
    assert not stored.fetcher.just_verified.take(NAME, descriptor)
    os.close(descriptor)


def test_a_failure_reaches_everyone_who_waited(parts: Parts) -> None:
    def refuse_slowly() -> None:
        time.sleep(0.3)
        raise AccessDenied("policy")

    parts.store.before_get = [refuse_slowly]
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(fetch, parts) for _ in range(5)]
        for future in futures:
            with pytest.raises(AccessDenied, match="policy"):
                future.result(10)
    assert len(parts.store.calls) == 1


def test_eviction_cannot_take_it_from_its_reader(stored: Parts) -> None:
    descriptor = stored.fetcher.fetch(NAME)
    stored.cache.drop(NAME)
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == CONTENT


def test_the_cache_makes_room_before_the_download(parts: Parts) -> None:
    for number in range(20):
        parts.store.put_foreign(name_of(number), content_of(number, 120_000))
        fetch(parts, name_of(number))
        files = (parts.folder / "cache" / "objects").rglob("*.dcm")
        assert sum(path.stat().st_size for path in files) == parts.cache.report()["Bytes"] <= MAXIMUM_CACHE


@pytest.mark.parametrize("error", [Unreachable("x"), Throttled("x"), ServerFailed("x"), ObjectCorrupted("x")])
def test_what_may_pass_is_tried_again(stored: Parts, error: Exception) -> None:
    stored.store.before_get = [raising(error), raising(error)]
    assert fetch(stored) == CONTENT


def test_it_gives_up_in_the_end(stored: Parts) -> None:
    stored.store.before_get = [raising(Unreachable("x")) for _ in range(50)]
    with pytest.raises(Unreachable):
        fetch(stored)
    assert len(stored.store.calls) == 3


def test_while_s3_is_away_readers_fail_fast(stored: Parts) -> None:
    stored.availability.failed(GET, Unreachable("the reason"))
    began = time.monotonic()
    with pytest.raises(Unreachable, match="the reason"):
        fetch(stored)
    assert time.monotonic() - began < 0.2
    assert stored.store.calls == []


def test_a_missing_object_is_asked_for_again_for_a_while(parts: Parts) -> None:
    began = time.monotonic()
    with pytest.raises(ObjectMissing):
        fetch(parts)
    assert time.monotonic() - began >= 0.6
    assert len(parts.store.calls) >= 2


def test_an_attachment_that_becomes_pending_meanwhile_is_found(parts: Parts) -> None:
    parts.store.before_get = [lambda: parts.spool.accept(NAME, CONTENT)]
    assert fetch(parts) == CONTENT


def test_wrong_bytes_are_never_served_nor_kept(parts: Parts) -> None:
    parts.store.put_foreign(NAME, CONTENT, bytes(32))
    with pytest.raises(ObjectCorrupted):
        fetch(parts)
    assert not parts.cached(NAME).exists()
    assert os.listdir(parts.folder / "cache" / "fetching") == []
    assert parts.cache.report()["Bytes"] == 0
    assert parts.cache.reserve(MAXIMUM_CACHE)  # nothing stays reserved


def test_a_removed_attachment_is_missing_wherever_its_bytes_are(stored: Parts) -> None:
    fetch(stored)
    stored.spool.accept(NAME, CONTENT)
    stored.spool.bury(NAME)
    with pytest.raises(ObjectMissing):
        fetch(stored)


def test_a_removal_during_the_download_keeps_it_out_of_the_cache(stored: Parts) -> None:
    stored.store.before_get = [lambda: stored.spool.bury(NAME)]
    fetch(stored)
    assert not stored.cached(NAME).exists()
    assert stored.cache.report()["Bytes"] == 0


@pytest.mark.parametrize("succeeding_writes", [0, 2])
def test_a_full_disk_does_not_keep_readers_from_their_images(
    stored: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, succeeding_writes: int
) -> None:
    write = os.pwritev
    writes = 0

    def fill(descriptor: int, pieces: list[memoryview], offset: int) -> int:
        nonlocal writes
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(stored.folder)):
            writes += 1
            if writes > succeeding_writes:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, [pieces[0][:1000]], offset)  # a short write, too
        return write(descriptor, pieces, offset)

    monkeypatch.setattr(os, "pwritev", fill)
    assert fetch(stored) == CONTENT
    assert not stored.cached(NAME).exists()
    assert os.listdir(stored.folder / "cache" / "fetching") == []
    assert "cache_unusable" in caplog.text


def test_a_cache_that_cannot_be_read_does_not_either(
    stored: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("backend.transfer.fetcher.open_cached", fails)
    assert fetch(stored) == CONTENT
    assert "cache_unusable" in caplog.text


def test_a_cache_that_takes_no_more_names_does_not_either(
    stored: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(stored.cache, "publish", fails)
    assert fetch(stored) == CONTENT
    assert os.listdir(stored.folder / "cache" / "fetching") == []
    assert stored.cache.report()["Bytes"] == 0
    assert "cache_unusable" in caplog.text


def test_what_does_not_fit_into_the_cache_is_served_and_not_kept(parts: Parts) -> None:
    content = content_of(2, MAXIMUM_CACHE + 1)
    parts.store.put_foreign(NAME, content)
    assert fetch(parts) == content
    assert not parts.cached(NAME).exists()
    with pytest.raises(NoRoom):
        parts.fetch_ahead(NAME)


def test_a_download_that_trickles_is_given_up(stored: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends a byte now and then must not hold a reader for ever."""
    monkeypatch.setattr("backend.transfer.downloader._SHORTEST", -10.0)
    with pytest.raises(Unreachable, match="slower than"):
        fetch(stored)
    assert os.listdir(stored.folder / "cache" / "fetching") == []


@pytest.mark.parametrize(("pause", "is_given_up"), [(8.0, False), (9.0, True)])
def test_only_waiting_for_the_network_counts(
    stored: Parts, monkeypatch: pytest.MonkeyPatch, pause: float, *, is_given_up: bool
) -> None:
    """Not for a turn, which others have, nor for a slow disk: four chunks in 33 s are fast enough."""
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=pass_time)
    chunks, write = _OpenMemoryObject.chunks, DownloadFile.write

    class BusyTurns(Turns):
        @contextmanager
        def held(self, rank: Rank) -> Iterator[None]:
            pass_time(1000.0)
            with super().held(rank):
                yield

    def slow_chunks(found: _OpenMemoryObject) -> Iterator[Chunk]:
        for chunk in chunks(found):
            pass_time(pause)
            yield chunk

    def slow_write(file: DownloadFile, chunk: Chunk) -> None:
        pass_time(1000.0)
        write(file, chunk)

    monkeypatch.setattr("backend.transfer.fetcher.time", clock)
    monkeypatch.setattr("backend.transfer.downloader.time", clock)
    monkeypatch.setattr(_OpenMemoryObject, "chunks", slow_chunks)
    monkeypatch.setattr(DownloadFile, "write", slow_write)
    stored.fetcher._slots.turns = BusyTurns(1)
    if is_given_up:
        with pytest.raises(Unreachable, match="slower than"):
            fetch(stored)
    else:
        assert fetch(stored) == CONTENT


def test_neither_disk_nor_memory_is_told_and_nothing_stays_open(stored: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = open_descriptors()
    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(stored)
    monkeypatch.setattr("backend.transfer.downloader.write_all", full)
    with pytest.raises(OSError, match="No space left"):
        stored.fetcher.fetch_range(NAME, 0, 10)
    monkeypatch.undo()
    assert open_descriptors() == before


def test_what_is_too_large_for_memory_needs_the_disk(stored: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.transfer.download_file._LARGEST_IN_MEMORY", 1000)
    write = os.pwritev

    def full_after_a_while(descriptor: int, pieces: list[memoryview], offset: int) -> int:
        if offset > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, pieces[:1], offset)

    monkeypatch.setattr(os, "pwritev", full_after_a_while)
    with pytest.raises(OSError, match="No space left"):
        fetch(stored)
    assert os.listdir(stored.folder / "cache" / "fetching") == []


def test_a_memory_that_fills_up_while_it_takes_over_leaves_nothing_open(
    stored: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, before = os.pwritev, open_descriptors()

    def full_after_a_while(descriptor: int, pieces: list[memoryview], offset: int) -> int:
        if offset > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, pieces[:1], offset)

    def full(descriptor: int, *_: object) -> int:
        assert "memfd" in os.readlink(f"/proc/self/fd/{descriptor}")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)

    monkeypatch.setattr(os, "pwritev", full_after_a_while)
    with pytest.raises(OSError, match="No space left"):
        fetch(stored)
    monkeypatch.undo()
    assert open_descriptors() == before


def test_a_cache_folder_that_cannot_be_written_does_not_either(stored: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert fetch(stored) == CONTENT


def fetch_range(parts: Parts, start: int, end: int) -> bytes:
    with os.fdopen(parts.fetcher.fetch_range(NAME, start, end), "rb") as file:
        return file.read()


def test_a_range_is_read_from_s3_without_the_rest_and_not_kept(stored: Parts) -> None:
    before = open_descriptors()
    assert fetch_range(stored, 1000, 3000) == CONTENT[1000:3000]
    assert fetch_range(stored, 1000, 3000) == CONTENT[1000:3000]
    assert stored.store.calls == [("get_range", NAME)] * 2
    assert not stored.cached(NAME).exists()
    assert open_descriptors() == before
    counters = stored.counters.snapshot()
    assert (counters["range_downloads"], counters["range_download_bytes"]) == (2, 4000)
    assert counters["downloads"] == 0


def test_a_range_of_what_is_here_by_now_does_not_ask_s3(stored: Parts) -> None:
    fetch(stored)
    assert fetch_range(stored, 1000, 3000) == CONTENT[1000:3000]
    assert stored.store.calls == [("get", NAME)]


def test_a_range_is_tried_again_and_its_failure_told(stored: Parts) -> None:
    stored.store.before_get = [raising(Unreachable("gone")), raising(ServerFailed("ill"))]
    assert fetch_range(stored, 0, 10) == CONTENT[:10]
    with pytest.raises(ObjectCorrupted):
        fetch_range(stored, 0, len(CONTENT) + 1)
    stored.store.before_get = [raising(AccessDenied("no"))]
    with pytest.raises(AccessDenied):
        fetch_range(stored, 0, 10)


def test_a_range_of_a_removed_attachment_is_missing(stored: Parts) -> None:
    stored.spool.bury(NAME)
    with pytest.raises(ObjectMissing):
        fetch_range(stored, 0, 10)


def opened(parts: Parts, name: str, *, anywhere: bool = False) -> bytes | None:
    descriptor = parts.fetcher.opened(name, anywhere=anywhere)
    return None if descriptor is None else content_of_file(descriptor)


def test_it_opens_what_is_here_and_fetches_nothing(stored: Parts) -> None:
    assert opened(stored, NAME, anywhere=True) is None
    assert stored.store.calls == []
    fetch(stored)
    stored.spool.accept(name_of(2), b"pending")
    assert opened(stored, NAME) == CONTENT
    assert opened(stored, name_of(2)) == b"pending"
    stored.file("tombstones", NAME).touch()
    with pytest.raises(ObjectMissing):
        opened(stored, NAME)


def test_what_orthancs_own_folder_holds_is_not_fetched_ahead_nor_for_sending(parts: Parts) -> None:
    """HybridMode. Orthanc's own reads have looked there already, and want the object."""
    folder = StorageDirectory(parts.folder / "storage")
    folder.directory.mkdir()
    folder.recover()
    folder.write(NAME, CONTENT, bytes(32))
    parts.fetcher._storage_directory = folder
    assert opened(parts, NAME) is None
    assert opened(parts, NAME, anywhere=True) == CONTENT
    assert parts.fetch_ahead(NAME) is False
    assert content_of_file(parts.fetcher.fetch(NAME, Priority.SEND)) == CONTENT
    assert parts.store.calls == []
    with pytest.raises(ObjectMissing):
        parts.fetcher.fetch(NAME)
    (folder.directory / NAME[:2]).rename(folder.directory / "aside")
    (folder.directory / NAME[:2]).touch()  # a disk that fails is no reason not to ask S3
    parts.store.put_foreign(NAME, CONTENT)
    assert content_of_file(parts.fetcher.fetch(NAME, Priority.SEND)) == CONTENT


@pytest.mark.parametrize(
    ("error", "counter"),
    [(ObjectOfAnotherKey, "wrong_key"), (ObjectUnencrypted, "unencrypted"), (ObjectCorrupted, "corrupted")],
)
def test_a_wrong_key_is_told_apart_from_corruption_and_keeps_nobody_else_from_reading(
    parts: Parts, error: type[ObjectStoreError], counter: str
) -> None:
    parts.store.before_get.extend([raising(error("refused"))] * 3)
    with pytest.raises(error):
        fetch(parts)
    counters = parts.counters.snapshot()
    assert {name for name in ("wrong_key", "unencrypted", "corrupted") if counters[name]} == {counter}
    assert parts.availability.error(GET) is None


def uploaded(parts: Parts) -> None:
    """The object has come to harm, the cache has evicted it, and the copy of the upload is still here."""
    parts.spool.accept(NAME, CONTENT)
    parts.upload.upload_pending(NAME)
    parts.cached(NAME).unlink()


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_lost_or_damaged_object_is_mended_from_the_copy_that_is_still_here(
    parts: Parts, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    uploaded(parts)
    if harm == "missing":
        parts.store.delete(NAME)
    else:
        parts.store.put_foreign(NAME, b"X" + CONTENT[1:], sha256(CONTENT).digest())
    assert fetch(parts) == CONTENT
    assert parts.store.get_range(NAME, 0, len(CONTENT)) == CONTENT
    assert parts.counters.snapshot()["mended"] == 1
    assert f"object_mended name={NAME}" in caplog.text


def test_an_unencrypted_object_in_the_place_of_an_encrypted_one_is_mended_too(parts: Parts) -> None:
    uploaded(parts)
    parts.store.before_get = [raising(ObjectUnencrypted("put there by somebody else"))]
    assert fetch(parts) == CONTENT
    assert parts.counters.snapshot()["mended"] == 1


def test_the_copy_is_served_although_the_object_cannot_be_mended(parts: Parts) -> None:
    uploaded(parts)
    parts.store.delete(NAME)
    parts.store.before_put = [raising(Unreachable("away"))]
    assert fetch(parts) == CONTENT
    assert parts.counters.snapshot()["mended"] == 0


def test_a_copy_that_is_damaged_too_mends_nothing(parts: Parts) -> None:
    uploaded(parts)
    parts.store.delete(NAME)
    parts.file("uploaded", NAME).write_bytes(b"X" + CONTENT[1:])
    with pytest.raises(ObjectMissing):
        parts.fetcher.fetch(NAME)
    assert parts.store.keys() == []


def test_what_was_removed_is_not_mended(parts: Parts) -> None:
    uploaded(parts)
    parts.store.delete(NAME)
    parts.store.before_get = [lambda: parts.spool.bury(NAME)]
    with pytest.raises(ObjectMissing):
        parts.fetcher.fetch(NAME)
    assert parts.store.keys() == []


class FakeAsked:
    """A request under way: what is missing each time somebody looks."""

    def __init__(self, *missing: int, is_here: bool) -> None:
        self._missing = list(missing)
        self.is_here = is_here
        self.is_closed = False

    def missing(self) -> int:
        return self._missing.pop(0)

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize(
    ("missing", "is_here", "waits"),
    [((1, 500, 0), True, 2), ((0,), True, 0), ((1, 0), False, 1), ((1, 5_000_000), False, 1)],
)
def test_who_fetches_ahead_waits_for_the_answer_where_others_may_go_on(
    stored: Parts,
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[int, ...],
    waits: int,
    *,
    is_here: bool,
    is_connected: bool,
) -> None:
    """And apart, which None says, to connect and for what is not all there."""
    asked = FakeAsked(*missing, is_here=is_here)
    monkeypatch.setattr(
        stored.store, "ask", lambda _key, *, may_connect=False: asked if may_connect or is_connected else None
    )
    fetching = stored.fetcher.fetch_ahead(NAME, Priority.AHEAD)
    expected = [None] * (not is_connected) + [asked] * waits + [None] * (not is_here)
    assert list(fetching) == expected
    assert stored.cached(NAME).read_bytes() == CONTENT
    assert asked.is_closed


def test_who_fetches_ahead_can_be_told_to_wait_by_himself(stored: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = FakeAsked(1, is_here=False)
    monkeypatch.setattr(stored.store, "ask", lambda _key, **_: asked)
    fetching = stored.fetcher.fetch_ahead(NAME, Priority.AHEAD)
    assert next(fetching) is cast("Asked", asked)
    with pytest.raises(StopIteration) as end:
        fetching.send(True)  # noqa: FBT003 - as the generator says
    assert end.value.value is True
    assert stored.cached(NAME).read_bytes() == CONTENT
