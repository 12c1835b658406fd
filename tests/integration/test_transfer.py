"""The transfer process as a process: started as the plugin starts it, with a moto server over HTTP as its S3."""

from __future__ import annotations

import os
import resource
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend import messages
from backend.atomic_file import read_digest
from backend.plugin.transfer_client import TransferError
from backend.stack.ports import free_port
from backend.stack.s3_server import S3Server
from backend.transfer.process import START_PATIENCE
from tests.fakes.gate import Gate
from tests.fakes.s3_faults import (
    BUCKET,
    FakeS3,
    Stored,
    answer_late,
    give_damaged,
    refuse_with,
    store_then_fail,
)
from tests.fakes.transfer_child import TransferChild, connect, content_of, name_of

Start = Callable[..., TransferChild]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(free_port(), tmp_path_factory.mktemp("moto") / "log")
    yield server
    server.stop()


@pytest.fixture
def bucket(moto: S3Server) -> str:
    name = f"bucket-{uuid.uuid4()}"
    moto.create_bucket(name)
    return name


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    server = FakeS3()
    yield server
    server.stop()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Start]:
    made = []

    def make_one(endpoint: str, bucket: str, **storage: object) -> TransferChild:
        made.append(TransferChild(tmp_path, endpoint, bucket, **storage))
        return made[-1]

    yield make_one
    for child in made:
        child.close()


@pytest.fixture
def child(make: Start, moto: S3Server, bucket: str) -> TransferChild:
    child = make(moto.url, bucket)
    child.start_ready()
    return child


def test_what_is_pending_reaches_the_bucket_byte_for_byte_and_is_cached(
    child: TransferChild, moto: S3Server, bucket: str
) -> None:
    names = [name_of(n, extension) for n, extension in enumerate((".dcm", ".dcm.head", ".json", ".unk", ""))]
    for number, name in enumerate(names):
        child.accept(name, content_of(number, 1000 * number))
    child.wait_drained()
    assert moto.keys(bucket) == sorted(names)
    for number, name in enumerate(names):
        assert moto.object(bucket, name) == content_of(number, 1000 * number)
    assert child.cached() == sorted(names)
    child.wait(lambda: child.report.get("ReleasedBytes") == 10_000, "every byte is accounted for", 5)
    assert child.report["Counters"]["uploads"] == 5
    assert child.report["Cache"]["Bytes"] == 10_000
    assert child.report["ObjectStore"]["State"] == "Available"


def test_legacy_keys_and_a_root_path_are_those_of_the_native_plugin(make: Start, moto: S3Server, bucket: str) -> None:
    child = make(moto.url, bucket, RootPath="node/a", StorageStructure="legacy")
    child.start_ready()
    name = name_of(1, "")
    child.accept(name, content_of(1))
    child.wait_drained()
    assert moto.keys(bucket) == [f"node/a/{name[:2]}/{name[2:4]}/{name}"]


def test_fetch_gives_a_verified_file_and_leaves_a_cached_one(child: TransferChild, moto: S3Server, bucket: str) -> None:
    child.accept(name_of(1), content_of(1))
    child.wait_drained()
    path = child.cache / "objects" / name_of(1)[:2] / name_of(1)
    path.unlink()
    descriptor = child.client.fetch(name_of(1), 10)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == content_of(1)
        assert read_digest(file.fileno()) == read_digest(path)
    assert path.read_bytes() == content_of(1)


def test_fetch_serves_what_is_still_pending(make: Start) -> None:
    child = make(f"http://127.0.0.1:{free_port()}", BUCKET)
    child.accept(name_of(1), content_of(1))
    child.start_ready()
    assert child.fetch(name_of(1)) == content_of(1)


def test_only_who_sends_a_file_right_after_its_download_hears_that_it_was_verified(make: Start, fake: FakeS3) -> None:
    """Neither of what is pending, nor the next one of the same file."""
    child = make(fake.url, BUCKET)
    child.start_ready()
    fake.objects[name_of(1)] = Stored(content_of(1))
    fake.add("PUT", answer_late(5))
    child.accept(name_of(2), content_of(2))
    with connect(child) as connection:
        answers = []
        for name in (name_of(1), name_of(1), name_of(2)):
            messages.send(connection, {"Operation": "fetch", "Name": name, "For": "send"})
            reply, (descriptor,) = messages.receive(connection)
            os.close(descriptor)
            answers.append(reply["VerifiedAt"] > 0)
    assert answers == [True, False, False]


def test_what_is_announced_is_delivered_as_it_comes(make: Start, fake: FakeS3) -> None:
    """What is here at once; then what is in S3; then the word that another one cannot be had."""
    child = make(fake.url, BUCKET)
    child.start_ready()
    fake.objects[name_of(1)] = Stored(content_of(1))
    fake.add("PUT", answer_late(5))
    child.accept(name_of(2), content_of(2))
    fake.add("GET", answer_late(0.3), times=2)
    with connect(child) as connection:
        attachments = [[name_of(number), 50_000] for number in (3, 1, 2)]
        began = time.monotonic()
        messages.send(connection, {"Operation": "deliver", "Attachments": attachments})
        come, missing = [], []
        while len(come) + len(missing) < 3:
            message, descriptors = messages.receive(connection)
            missing += message["Missing"]
            for (name, verified_at), descriptor in zip(message["Files"], descriptors, strict=True):
                with os.fdopen(descriptor, "rb") as file:
                    come.append((name, file.read(), verified_at >= began))
    assert come == [(name_of(2), content_of(2), False), (name_of(1), content_of(1), True)]
    assert missing == [name_of(3)]


def test_as_many_files_may_wait_for_workers_as_the_system_allows(make: Start, fake: FakeS3) -> None:
    """The kernel counts those in sockets against the limit of open files, and refuses them all beyond it."""
    limit = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(limit)
    child = make(fake.url, BUCKET)
    resource.setrlimit(limit, (hard // 2, hard))
    try:
        child.start_ready()
    finally:
        resource.setrlimit(limit, (soft, hard))
    assert child.process
    assert resource.prlimit(child.process.pid, limit) == (hard, hard)


def test_many_readers_of_one_object_cost_one_download(make: Start, fake: FakeS3) -> None:
    child = make(fake.url, BUCKET)
    child.start_ready()
    fake.objects[name_of(1)] = Stored(content_of(1, 3_000_000))
    fake.add("GET", answer_late(0.5))  # long enough for all to ask
    with ThreadPoolExecutor(20) as readers:
        contents = list(readers.map(lambda _: child.fetch(name_of(1)), range(20)))
    assert contents == [content_of(1, 3_000_000)] * 20
    assert fake.requests.count(("GET", name_of(1))) == 1


def test_an_object_larger_than_the_cache_is_served_and_not_kept(make: Start, fake: FakeS3) -> None:
    child = make(fake.url, BUCKET, MaximumCacheSize=1_048_576)
    child.start_ready()
    fake.objects[name_of(1)] = Stored(content_of(1, 2_000_000))
    assert child.fetch(name_of(1)) == content_of(1, 2_000_000)
    assert child.cached() == []
    assert os.listdir(child.cache / "fetching") == []


def test_the_cache_never_grows_past_its_limit(make: Start, moto: S3Server, bucket: str) -> None:
    child = make(moto.url, bucket, MaximumCacheSize=1_048_576)
    child.start_ready()
    for number in range(60):
        child.accept(name_of(number), content_of(number))
    child.wait_drained()
    assert sum(path.stat().st_size for path in (child.cache / "objects").rglob("*.dcm")) <= 1_048_576
    child.wait(lambda: child.report["Counters"]["evictions"] >= 60 - 20, "evictions are counted", 5)
    assert len(moto.keys(bucket)) == 60
    assert child.fetch(name_of(0)) == content_of(0)


def test_each_failure_of_a_fetch_has_its_kind(make: Start, fake: FakeS3) -> None:
    child = make(fake.url, BUCKET)
    child.start_ready()
    fake.objects[name_of(1)] = Stored(content_of(1), {"x-amz-meta-sha256": "ab" * 32})
    kinds = {name_of(1): "corrupted", name_of(2): "missing"}
    for name, kind in kinds.items():
        with pytest.raises(TransferError) as raised:
            child.fetch(name)
        assert raised.value.kind == kind
    assert child.cached() == []
    fault = fake.add("GET", refuse_with(403, "AccessDenied"), times=None)
    with pytest.raises(TransferError) as raised:
        child.fetch(name_of(1))
    assert raised.value.kind == "denied"
    child.wait(lambda: child.report["ObjectStore"]["State"] == "Denied", "the state says so")
    fault.times = 0
    child.wait(lambda: child.report["ObjectStore"]["State"] == "Available", "it recovers by itself", 90)


def test_an_object_damaged_on_its_way_is_downloaded_again(make: Start, fake: FakeS3) -> None:
    child = make(fake.url, BUCKET)
    child.start_ready()
    child.accept(name_of(1), content_of(1))
    child.wait_drained()
    (child.cache / "objects" / name_of(1)[:2] / name_of(1)).unlink()
    fake.add("GET", give_damaged)
    assert child.fetch(name_of(1)) == content_of(1)


def test_a_missing_object_that_another_node_uploads_in_time_is_found(make: Start, fake: FakeS3) -> None:
    child = make(fake.url, BUCKET, MissingObjectPatience=20)
    child.start_ready()
    with ThreadPoolExecutor(1) as reader:
        content = reader.submit(child.fetch, name_of(1))
        child.wait(lambda: ("GET", name_of(1)) in fake.requests, "it has asked once")
        fake.objects[name_of(1)] = Stored(content_of(1))
        assert content.result(10) == content_of(1)


def test_object_store_durability_answers_when_the_bucket_has_it(
    child: TransferChild, moto: S3Server, bucket: str
) -> None:
    child.spool.stage(name_of(1), content_of(1))
    child.client.upload(name_of(1), 10)
    assert moto.object(bucket, name_of(1)) == content_of(1)
    assert child.listing("incoming") == []
    assert child.cached() == [name_of(1)]
    child.client.upload(name_of(1), 10)  # asked again, as after a lost answer


def test_object_store_durability_refuses_in_time_and_leaves_nothing(make: Start, fake: FakeS3) -> None:
    """The first attempt was carried out all the same; the plugin's tombstone has it deleted."""
    child = make(fake.url, BUCKET)
    child.start_ready()
    fake.add("PUT", store_then_fail, times=None)
    child.spool.stage(name_of(1), content_of(1))
    began = time.monotonic()
    with pytest.raises(TransferError) as raised:
        child.client.upload(name_of(1), 1.5)
    assert raised.value.kind in {"unreachable", "timeout"}
    assert time.monotonic() - began < 3
    assert name_of(1) in fake.objects
    child.remove(name_of(1))
    child.spool.discard(name_of(1))
    fake.faults.clear()
    child.wait(lambda: name_of(1) not in fake.objects, "the object is deleted")
    child.wait(lambda: child.listing("tombstones") == [], "the removal is done")


def test_a_removal_takes_local_files_at_once_and_the_object_after_the_grace_period(
    make: Start, moto: S3Server, bucket: str
) -> None:
    child = make(moto.url, bucket, RemovalGracePeriod=2.0)
    child.start_ready()
    child.accept(name_of(1), content_of(1))
    child.wait_drained()
    removed = time.monotonic()
    child.remove(name_of(1))
    child.wait(lambda: child.cached() == [], "the cache has dropped it", 1.5)
    assert moto.keys(bucket) == [name_of(1)]
    with pytest.raises(TransferError) as raised:
        child.fetch(name_of(1))
    assert raised.value.kind == "missing"
    child.wait(lambda: moto.keys(bucket) == [], "the object is deleted")
    assert time.monotonic() - removed >= 2.0
    child.wait(lambda: child.listing("tombstones") == [], "the tombstone is gone")


def test_a_removal_that_races_the_upload_wins(child: TransferChild, moto: S3Server, bucket: str) -> None:
    """At whatever moment of the upload it comes."""
    for number in range(60):
        child.accept(name_of(number), content_of(number))
        time.sleep((number % 12) / 1000)
        child.remove(name_of(number))
    child.wait(lambda: child.listing("tombstones") == [], "every removal is done")
    assert child.listing("pending") == []
    assert child.cached() == []
    assert moto.keys(bucket) == []
    child.wait(lambda: child.report["ReleasedBytes"] == 60 * 50_000, "every byte is accounted for", 5)


def test_killed_during_a_burst_nothing_is_lost(child: TransferChild, moto: S3Server, bucket: str) -> None:
    for round_ in range(4):
        for number in range(round_ * 40, round_ * 40 + 40):
            child.accept(name_of(number), content_of(number))
        time.sleep(0.05 * round_)
        child.kill()
        child.start()
    child.wait_drained()
    assert moto.keys(bucket) == sorted(name_of(number) for number in range(160))
    for number in range(160):
        assert moto.object(bucket, name_of(number)) == content_of(number)
    assert os.listdir(child.cache / "fetching") == []


def test_s3_away_and_back_drains_by_itself(make: Start, moto: S3Server, bucket: str) -> None:
    gate = Gate(free_port(), ("127.0.0.1", moto.port))
    child = make(gate.url, bucket)
    child.start_ready()
    gate.refuse()
    for number in range(30):
        child.accept(name_of(number), content_of(number))
    child.wait(lambda: child.report.get("ObjectStore", {}).get("State") == "Unreachable", "the state says so")
    assert child.report["ObjectStore"]["Reason"]
    child.wait(lambda: child.report["PendingCount"] == 30, "all are pending")
    assert child.report["PendingBytes"] == 30 * 50_000
    gate.open()
    child.wait_drained()
    assert len(moto.keys(bucket)) == 30
    child.wait(lambda: child.report["ObjectStore"]["State"] == "Available", "the state says so")
    gate.close()


def test_it_starts_while_s3_is_away_and_says_so(make: Start, moto: S3Server, bucket: str) -> None:
    gate = Gate(free_port(), ("127.0.0.1", moto.port))
    gate.refuse()
    child = make(gate.url, bucket)
    child.accept(name_of(1), content_of(1))
    child.start_ready()
    assert "object_store_unavailable_at_start" in child.log.read_text()
    gate.open()
    child.wait_drained()
    assert moto.object(bucket, name_of(1)) == content_of(1)
    gate.close()


def test_a_silent_s3_does_not_hold_up_its_start(make: Start, moto: S3Server, bucket: str) -> None:
    gate = Gate(free_port(), ("127.0.0.1", moto.port))
    gate.blackhole()
    child = make(gate.url, bucket)
    child.accept(name_of(1), content_of(1))
    child.start_ready()
    assert time.monotonic() - gate.reached < START_PATIENCE + 4  # and what a busy machine takes to say so
    assert "object_store_unavailable_at_start" in child.log.read_text()
    gate.open()
    child.wait_drained(60)
    assert moto.object(bucket, name_of(1)) == content_of(1)
    gate.close()


def test_the_end_of_standard_input_ends_it_at_once(child: TransferChild) -> None:
    began = time.monotonic()
    child.end_input()
    assert time.monotonic() - began < 1


def test_sigterm_ends_it_with_success_and_its_successor_goes_on(
    child: TransferChild, moto: S3Server, bucket: str
) -> None:
    for number in range(50):
        child.accept(name_of(number), content_of(number))
    began = time.monotonic()
    assert child.terminate() == 0
    assert time.monotonic() - began < 4
    child.start_ready()
    child.wait_drained()
    assert len(moto.keys(bucket)) == 50


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (404, "NoSuchBucket", "BucketName"),
        (403, "AccessDenied", "s3:PutObject"),
        (403, "SignatureDoesNotMatch", "SecretKey"),
        (403, "InvalidAccessKeyId", "AccessKey"),
        (301, "PermanentRedirect", "Region"),
    ],
)
def test_what_time_cannot_mend_refuses_the_start_with_a_sentence(
    make: Start, fake: FakeS3, status: int, code: str, named: str
) -> None:
    fake.add("*", refuse_with(status, code), times=None)
    child = make(fake.url, BUCKET)
    child.start()
    assert child.process
    assert child.process.wait(20) == 78
    child.wait(lambda: child.refusal, "the refusal has been heard", 5)
    assert child.refusal is not None
    assert named in child.refusal
    assert "fake/secret+key" not in child.refusal + child.log.read_text()


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [(403, "RequestTimeTooSkewed", "ClockSkewed"), (503, "SlowDown", "Throttled"), (503, "", "Throttled")],
)
def test_what_may_pass_by_itself_does_not_keep_it_from_starting(
    make: Start, fake: FakeS3, status: int, code: str, state: str
) -> None:
    fault = fake.add("*", refuse_with(status, code), times=None)
    child = make(fake.url, BUCKET)
    child.accept(name_of(1), content_of(1))
    child.start_ready()
    child.wait(lambda: child.report.get("ObjectStore", {}).get("State") == state, "the state says so")
    fault.times = 0
    child.wait_drained()


def test_a_cache_that_cannot_be_used_stops_neither_uploads_nor_reads(make: Start, moto: S3Server, bucket: str) -> None:
    child = make(moto.url, bucket)
    child.cache.write_text("not a folder")
    child.accept(name_of(1), content_of(1))
    child.start_ready()
    child.wait_drained()
    assert moto.object(bucket, name_of(1)) == content_of(1)
    assert child.fetch(name_of(1)) == content_of(1)


def test_removals_survive_kills(child: TransferChild, moto: S3Server, bucket: str) -> None:
    for number in range(80):
        child.accept(name_of(number), content_of(number))
    child.wait_drained()
    for round_ in range(4):
        for number in range(round_ * 20, round_ * 20 + 20):
            child.remove(name_of(number))
        time.sleep(0.3 * round_)
        child.kill()
        child.start()
    child.wait(lambda: child.listing("tombstones") == [], "every removal is done")
    assert moto.keys(bucket) == []
    assert child.cached() == []


def test_a_missing_bucket_is_made_only_when_the_settings_say_so(make: Start, moto: S3Server) -> None:
    name = f"bucket-{uuid.uuid4()}"
    child = make(moto.url, name, CreateBucket=True)
    child.start_ready()
    child.accept(name_of(1), content_of(1))
    child.wait_drained()
    assert moto.keys(name) == [name_of(1)]


def test_a_refusal_that_comes_later_ends_nothing(make: Start, fake: FakeS3) -> None:
    child = make(fake.url, BUCKET)
    child.start_ready()
    fault = fake.add("PUT", refuse_with(403, "AccessDenied"), times=None)
    child.accept(name_of(1), content_of(1))
    child.wait(lambda: child.report.get("ObjectStore", {}).get("State") == "Denied", "the state says so")
    fault.times = 0
    child.wait_drained(90)
    assert fake.objects[name_of(1)].body == content_of(1)


def test_a_corrupted_spool_file_is_quarantined_and_never_uploaded(
    child: TransferChild, moto: S3Server, bucket: str
) -> None:
    child.terminate()
    child.accept(name_of(1), content_of(1))
    child.accept(name_of(2), content_of(2))
    with (child.spool.directory / "pending" / name_of(1)).open("r+b") as file:
        file.seek(777)
        file.write(b"damage")
    child.start_ready()
    child.wait_drained()
    assert child.listing("quarantine") == [name_of(1)]
    assert moto.keys(bucket) == [name_of(2)]
    child.wait(lambda: child.report["QuarantineCount"] == 1, "the report says so", 5)
    child.wait(lambda: child.report["Counters"]["corrupted"] == 1, "and so does the counter", 5)
    assert "spool_file_corrupted" in child.log.read_text()


def test_strays_in_the_folders_are_left_alone(child: TransferChild, moto: S3Server, bucket: str) -> None:
    (child.spool.directory / "pending" / "notes.txt").write_text("stray")
    (child.spool.directory / "pending" / name_of(9)).mkdir()
    (child.spool.directory / "tombstones" / ".hidden").write_text("stray")
    child.accept(name_of(1), content_of(1))
    child.wait(lambda: moto.keys(bucket) == [name_of(1)], "the real one is uploaded")
    child.wait(lambda: child.report["PendingCount"] == 0, "nothing else counts", 5)
    assert child.log.read_text().count("stray_files") == 2
    assert "notes.txt" in child.listing("pending")


@pytest.mark.parametrize(
    "request_",
    [
        {"Operation": "fetch", "Name": "../../etc/passwd"},
        {"Operation": "fetch", "Name": "a/b"},
        {"Operation": "fetch", "Name": ""},
        {"Operation": "fetch", "Name": None},
        {"Operation": "fetch", "Name": name_of(1) + "\n"},
        {"Operation": "fetch", "Name": "x" * 5000},
        {"Operation": "fetch"},
        {"Operation": "upload", "Name": name_of(1), "Timeout": "soon"},
        {"Operation": "format", "Name": name_of(1)},
        {},
    ],
)
def test_absurd_requests_are_answered_and_harm_nobody(child: TransferChild, request_: dict[str, object]) -> None:
    with connect(child) as connection:
        messages.send(connection, request_)
        reply, descriptors = messages.receive(connection)
        assert reply["Result"] == "error"
        assert reply["Error"] == "local"
        assert descriptors == []
        connection.send(b"not JSON")
        assert messages.receive(connection)[0]["Error"] == "local"
    child.accept(name_of(1), content_of(1))
    child.wait_drained()


def test_readers_are_served_by_the_next_process_after_a_kill(child: TransferChild) -> None:
    child.accept(name_of(1), content_of(1))
    child.wait_drained()
    (child.cache / "objects" / name_of(1)[:2] / name_of(1)).unlink()
    child.kill()
    with ThreadPoolExecutor(1) as reader:
        content = reader.submit(child.fetch, name_of(1))
        child.start_ready()
        assert content.result(20) == content_of(1)
