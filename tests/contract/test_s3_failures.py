"""What S3 can answer, or fail to answer, and what becomes of it: on a server that verifies and misbehaves on demand."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from backend.stack.ports import free_port
from backend.transfer.object_store.errors import (
    AccessDenied,
    BucketMissing,
    BucketUnusable,
    ClockSkewed,
    ContentChanged,
    CredentialsRefused,
    ObjectArchived,
    ObjectCorrupted,
    ObjectMissing,
    ObjectStoreError,
    RequestRefused,
    ServerFailed,
    Throttled,
    Unreachable,
    UnusableSettings,
)
from backend.transfer.object_store.s3 import S3ObjectStore
from tests.contract.test_object_store import come, put, read, settings
from tests.fakes import s3_faults
from tests.fakes.s3_faults import BUCKET, FakeS3, Stored

BODY = bytes(range(256)) * 2048
REQUEST_TIMEOUT = 0.5  # seconds

ANSWERS = [
    (403, "AccessDenied", AccessDenied),
    (403, "SomethingNew", AccessDenied),
    (403, "SignatureDoesNotMatch", CredentialsRefused),
    (403, "InvalidAccessKeyId", CredentialsRefused),
    (400, "ExpiredToken", CredentialsRefused),
    (403, "RequestTimeTooSkewed", ClockSkewed),
    (403, "InvalidObjectState", ObjectArchived),
    (404, "NoSuchKey", ObjectMissing),
    (404, "NoSuchBucket", BucketMissing),
    (301, "PermanentRedirect", BucketUnusable),
    (400, "AuthorizationHeaderMalformed", BucketUnusable),
    (400, "BadDigest", RequestRefused),
    (400, "EntityTooLarge", RequestRefused),
    (400, "RequestTimeout", Unreachable),
    (409, "OperationAborted", ServerFailed),
    (429, "TooManyRequests", Throttled),
    (503, "SlowDown", Throttled),
    (503, "ServiceUnavailable", Throttled),
    (500, "InternalError", ServerFailed),
    (502, "", ServerFailed),
    (504, "", ServerFailed),
]


@pytest.fixture
def store(fake: FakeS3) -> S3ObjectStore:
    return S3ObjectStore(settings(fake.url, BUCKET, RequestTimeout=REQUEST_TIMEOUT, ConnectTimeout=0.5), 4)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer[0]} {answer[1]}")
@pytest.mark.parametrize("operation", ["put", "get", "delete"])
def test_each_answer_is_told_apart(
    store: S3ObjectStore, fake: FakeS3, operation: str, answer: tuple[int, str, type[ObjectStoreError]]
) -> None:
    status, code, error = answer
    fake.add("*", s3_faults.refuse_with(status, code))
    with pytest.raises(error) as raised:
        perform(store, operation)
    assert type(raised.value) is error
    assert s3_faults.SECRET_KEY not in str(raised.value)
    assert str(status) in str(raised.value)


def perform(store: S3ObjectStore, operation: str) -> None:
    if operation == "put":
        put(store, "key", BODY)
    elif operation == "get":
        read(store, "key")
    else:
        store.delete("key")


@pytest.mark.parametrize(
    ("status", "error"), [(404, ServerFailed), (403, AccessDenied), (200, ObjectCorrupted), (500, ServerFailed)]
)
def test_the_answer_of_a_web_server_that_is_not_s3_never_means_missing(
    store: S3ObjectStore, fake: FakeS3, status: int, error: type[ObjectStoreError]
) -> None:
    fake.add("GET", s3_faults.html(status))
    if status == 200:
        with pytest.raises(ObjectStoreError):
            put_and_confirm_with_html(store, fake)
    else:
        with pytest.raises(error, match="Endpoint") as raised:
            read(store, "key")
        assert not isinstance(raised.value, ObjectMissing)


def put_and_confirm_with_html(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.add("PUT", s3_faults.html(200))
    put(store, "key", BODY)


def test_signatures_are_those_that_botocore_would_make(store: S3ObjectStore) -> None:
    """The fake refuses any other; a range is one more signed header, an odd key is quoted in the canonical request."""
    for key in ("plain.dcm", "a b+c/é~.dcm"):
        put(store, key, BODY)
        assert read(store, key)[1] == BODY
        assert store.get_range(key, 10, 20) == BODY[10:20]
        store.delete(key)


def test_a_wrong_secret_is_refused_and_never_repeated(fake: FakeS3) -> None:
    wrong = S3ObjectStore(settings(fake.url, BUCKET, SecretKey="wrong-secret-of-mine"), 1)
    with pytest.raises(CredentialsRefused, match="SecretKey") as raised:
        put(wrong, "key", BODY)
    assert "wrong-secret-of-mine" not in str(raised.value)


@pytest.mark.parametrize(("offset", "direction"), [(3600, "behind"), (-3600, "ahead of")])
def test_a_wrong_clock_is_named_with_its_offset(
    store: S3ObjectStore, fake: FakeS3, offset: float, direction: str
) -> None:
    fake.add("PUT", s3_faults.skewed(offset))
    with pytest.raises(ClockSkewed, match=f"3(600|599|601) s {direction}"):
        put(store, "key", BODY)


def test_connection_refused_is_unreachable_at_once() -> None:
    store = S3ObjectStore(settings(f"http://127.0.0.1:{free_port()}", BUCKET), 1)
    began = time.monotonic()
    for operation in ("put", "get", "delete"):
        with pytest.raises(Unreachable):
            perform(store, operation)
    with pytest.raises(Unreachable):
        list(store.list(""))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("operation", ["put", "get", "delete"])
def test_a_server_that_never_answers_is_unreachable_in_time(store: S3ObjectStore, fake: FakeS3, operation: str) -> None:
    fake.add("*", s3_faults.hang)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        perform(store, operation)
    assert REQUEST_TIMEOUT <= time.monotonic() - began < REQUEST_TIMEOUT + 2


def test_a_server_that_takes_no_bytes_is_unreachable_in_time(fake: FakeS3) -> None:
    """The request is larger than what the sockets buffer; sending must not have only the time-out for connecting."""
    began = time.monotonic()
    with s3_faults.DeafServer() as deaf:
        store = S3ObjectStore(settings(deaf.url, BUCKET, RequestTimeout=1.0, ConnectTimeout=0.2), 1)
        with pytest.raises(Unreachable):
            put(store, "key", bytes(16_000_000))
    assert 0.9 < time.monotonic() - began < 5


@pytest.mark.parametrize("act", [s3_faults.give_half, s3_faults.stall_at_half])
def test_a_body_that_ends_early_is_never_taken_for_the_object(
    store: S3ObjectStore, fake: FakeS3, act: Callable[..., bool]
) -> None:
    put(store, "key", BODY)
    fake.add("GET", act)
    with pytest.raises(Unreachable):
        read(store, "key")
    assert read(store, "key")[1] == BODY


def test_a_damaged_body_differs_from_its_digest(store: S3ObjectStore, fake: FakeS3) -> None:
    """Judging that is the reader's part; the digest must be there to judge by."""
    put(store, "key", BODY)
    fake.add("GET", s3_faults.give_damaged)
    attributes, body = read(store, "key")
    assert attributes.digest == sha256(BODY).digest() != sha256(body).digest()


def test_an_object_of_others_has_no_digest(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.objects["native.dcm"] = Stored(BODY)
    assert read(store, "native.dcm") == (store.head("native.dcm"), BODY)
    assert store.head("native.dcm").digest is None


def test_a_digest_that_is_no_digest_is_corruption(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.objects["odd"] = Stored(BODY, {"x-amz-meta-sha256": "not hexadecimal"})
    with pytest.raises(ObjectCorrupted):
        read(store, "odd")


@pytest.mark.parametrize("echoes", [True, False])
@pytest.mark.parametrize("etag_is_md5", [True, False])
def test_bytes_that_were_altered_on_the_server_are_noticed(
    store: S3ObjectStore, fake: FakeS3, *, echoes: bool, etag_is_md5: bool
) -> None:
    """By the checksum in the answer, or by the ETag, or by reading the object back."""
    fake.echoes_checksums = echoes
    fake.etag_is_md5 = etag_is_md5
    put(store, "good", BODY)
    fake.add("PUT", s3_faults.store_damaged)
    with pytest.raises(ObjectCorrupted):
        put(store, "key", BODY)
    put(store, "key", BODY)
    assert fake.objects["key"].body == BODY


def test_a_checksum_that_a_server_repeats_unverified_proves_nothing(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.verifies_checksums = False
    fake.etag_is_md5 = False
    assert not store.verifies_checksums("probe")
    put(store, "good", BODY)

    def store_damaged_and_repeat_the_checksum(handler: s3_faults.Handler, body: bytes) -> bool:
        handler.store(body[:-1] + b"!")
        answer = {"ETag": "0", "x-amz-checksum-sha256": handler.headers["x-amz-checksum-sha256"]}
        handler.answer(200, headers=answer)
        return True

    fake.add("PUT", store_damaged_and_repeat_the_checksum)
    with pytest.raises(ObjectCorrupted):
        put(store, "key", BODY)


def test_until_a_server_was_tried_its_checksums_prove_nothing(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.etag_is_md5 = False
    put(store, "key", BODY)
    assert ("GET", "key") in fake.requests


def test_reading_back_is_for_servers_that_prove_nothing(store: S3ObjectStore, fake: FakeS3) -> None:
    assert store.verifies_checksums("probe")
    assert "probe" not in fake.objects
    for echoes, etag_is_md5, reads in ((True, False, 0), (False, True, 0), (False, False, 1)):
        fake.echoes_checksums, fake.etag_is_md5 = echoes, etag_is_md5
        fake.requests.clear()
        put(store, "key", BODY)
        assert [method for method, _ in fake.requests].count("GET") == reads


def test_a_put_that_was_carried_out_but_not_confirmed_may_be_repeated(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.add("PUT", s3_faults.store_then_fail)
    with pytest.raises(ServerFailed):
        put(store, "key", BODY)
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY


def test_a_kept_alive_connection_that_the_server_closes_costs_no_failure(store: S3ObjectStore, fake: FakeS3) -> None:
    put(store, "key", BODY)
    for operation in ("put", "get", "delete"):
        fake.add("*", s3_faults.drop)
        perform(store, operation)


def test_a_server_that_always_closes_the_connection_is_unreachable(store: S3ObjectStore, fake: FakeS3) -> None:
    fake.add("*", s3_faults.drop, times=None)
    with pytest.raises(Unreachable):
        put(store, "key", BODY)


def test_connections_are_kept_alive(store: S3ObjectStore, fake: FakeS3) -> None:
    for number in range(10):
        put(store, f"key{number}", BODY)
        read(store, f"key{number}")
        store.delete(f"key{number}")
    assert fake.connections == 1


def test_threads_share_one_store(store: S3ObjectStore) -> None:
    failures = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                body = bytes([number, turn]) * 50_000
                put(store, f"key{number}-{turn}", body)
                assert read(store, f"key{number}-{turn}")[1] == body
        except Exception as error:  # noqa: BLE001 - reported below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_redirect_is_not_followed(store: S3ObjectStore, fake: FakeS3) -> None:
    headers = {"Location": f"{fake.url}/{BUCKET}/elsewhere"}
    fake.objects["elsewhere"] = Stored(BODY)
    fake.add("GET", s3_faults.refuse_with(307, "TemporaryRedirect", headers))
    with pytest.raises(ServerFailed):
        read(store, "key")
    assert [key for _, key in fake.requests] == ["key"]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("bucket_name", "no/such name", "BucketName"),
        ("endpoint", "http://bad host:port", "Endpoint"),
        ("ca_certificates", Path("/nonexistent/ca.pem"), "HttpsCACertificates"),
    ],
)
def test_settings_that_cannot_work_are_named(fake: FakeS3, option: str, value: object, named: str) -> None:
    """Most of them the configuration's own validation has found before."""
    unchecked = settings(fake.url, BUCKET).model_copy(update={option: value})
    with pytest.raises(UnusableSettings, match=named):
        S3ObjectStore(unchecked, 1)


def test_a_file_without_certificates_is_named(fake: FakeS3, folder: Path) -> None:
    empty = folder / "ca.pem"
    empty.write_text("not a certificate")
    with pytest.raises(UnusableSettings, match="HttpsCACertificates"):
        S3ObjectStore(settings(fake.url, BUCKET, CaCertificates=empty), 1)


def test_absent_credentials_are_named(fake: FakeS3, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CredentialsRefused, match="AccessKey"):
        S3ObjectStore(settings(fake.url, BUCKET, AccessKey=None, SecretKey=None), 1)


def test_credentials_come_from_the_default_chain_and_are_looked_for_again(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_faults.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    store = S3ObjectStore(settings(fake.url, BUCKET, AccessKey=None, SecretKey=None), 1)
    store._connected_at -= 60
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_faults.SECRET_KEY)
    with pytest.raises(CredentialsRefused):
        put(store, "key", BODY)
    put(store, "key", BODY)
    assert fake.objects["key"].body == BODY


def test_content_that_cannot_be_read_is_not_blamed_on_s3(store: S3ObjectStore, fake: FakeS3) -> None:
    class FailingDisk(BytesIO):
        sent = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.sent += 1
            if self.sent > 3:
                raise OSError(5, "Input/output error")
            return super().read(size)

    body = bytes(10_000_000)
    with pytest.raises(OSError, match="Input/output error"):
        store.put("key", FailingDisk(body), len(body), sha256(body).digest())
    assert "key" not in fake.objects


@pytest.fixture
def trusting(store: S3ObjectStore) -> S3ObjectStore:
    """It has seen the server refuse a wrong checksum, so files go to the server without being hashed here before."""
    assert store.verifies_checksums("probe")
    return store


def put_file(store: S3ObjectStore, path: Path, digest_of: bytes = BODY) -> None:
    with path.open("rb") as content:
        content.seek(100)  # the contract says: from its start
        store.put("key", content, len(digest_of), sha256(digest_of).digest())


@pytest.mark.parametrize("echoes", [True, False])
@pytest.mark.parametrize("etag_is_md5", [True, False])
def test_a_file_reaches_a_server_that_verifies_checksums(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path, *, echoes: bool, etag_is_md5: bool
) -> None:
    fake.echoes_checksums, fake.etag_is_md5 = echoes, etag_is_md5
    (folder / "file").write_bytes(BODY)
    put_file(trusting, folder / "file")
    fake.add("*", s3_faults.drop)  # the connection is new, and so is the body
    put_file(trusting, folder / "file")
    assert fake.objects["key"].body == BODY


def test_a_file_that_was_altered_on_the_disk_is_refused_by_the_server_and_told_apart(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path
) -> None:
    (folder / "file").write_bytes(BODY[:-1] + b"!")
    with pytest.raises(ContentChanged):
        put_file(trusting, folder / "file")
    assert [method for method, _ in fake.requests] == ["PUT", "PUT"]  # the probe's and this one
    assert "key" not in fake.objects


def test_a_refusal_of_a_file_in_order_stays_what_it_is(trusting: S3ObjectStore, fake: FakeS3, folder: Path) -> None:
    (folder / "file").write_bytes(BODY)
    fake.add("PUT", s3_faults.refuse_with(400, "BadDigest"))
    with pytest.raises(RequestRefused):
        put_file(trusting, folder / "file")


def test_a_server_that_stops_verifying_is_trusted_no_longer(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path
) -> None:
    """It says itself that it took other bytes than their checksum's, or says nothing about them any more."""
    (folder / "file").write_bytes(BODY[:-1] + b"!")
    fake.add("PUT", lambda handler, body: not handler._put(body))
    with pytest.raises(ContentChanged):
        put_file(trusting, folder / "file")
    assert "key" not in fake.objects, "what it has taken is deleted"
    fake.requests.clear()
    with pytest.raises(ContentChanged):
        put_file(trusting, folder / "file")
    assert not fake.requests  # it was hashed here, before
    assert trusting.verifies_checksums("probe")
    fake.echoes_checksums = False
    fake.add("PUT", lambda handler, body: not handler._put(body))
    with pytest.raises(ContentChanged):
        put_file(trusting, folder / "file")


@pytest.mark.parametrize("size", [0, 100, len(BODY) - 1])
def test_a_file_that_has_become_shorter_is_not_blamed_on_s3(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path, size: int
) -> None:
    (folder / "file").write_bytes(BODY[:size])
    with pytest.raises(OSError, match="shorter"):
        put_file(trusting, folder / "file")
    assert "key" not in fake.objects


def test_a_file_that_the_disk_does_not_give_is_not_blamed_on_s3(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    (folder / "file").write_bytes(BODY)
    monkeypatch.setattr(os, "sendfile", failing)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        with pytest.raises(OSError, match="Input/output error"):
            put_file(trusting, folder / "file")
    assert "key" not in fake.objects
    put_file(trusting, folder / "file")  # a file system without sendfile, say
    assert fake.objects["key"].body == BODY


def test_sendfile_that_fails_in_the_middle_is_gone_on_with(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile = os.sendfile

    def failing_later(out: int, file: int, offset: int, count: int) -> int:
        if offset:
            raise OSError(errno.EINVAL, "Invalid argument")
        return sendfile(out, file, offset, min(count, 1000))

    (folder / "file").write_bytes(BODY)
    monkeypatch.setattr(os, "sendfile", failing_later)
    put_file(trusting, folder / "file")
    assert fake.objects["key"].body == BODY


def test_an_empty_file_does_not_wait(trusting: S3ObjectStore, fake: FakeS3, folder: Path) -> None:
    (folder / "file").write_bytes(b"")
    put_file(trusting, folder / "file", b"")
    assert fake.objects["key"].body == b""


def test_a_server_that_takes_no_bytes_of_a_file_is_unreachable_in_time(
    trusting: S3ObjectStore, fake: FakeS3, folder: Path
) -> None:
    body = bytes(16_000_000)
    (folder / "file").write_bytes(body)
    listener = socket.create_server(("127.0.0.1", 0))  # takes the connection, reads nothing
    silent = S3ObjectStore(
        settings(f"http://127.0.0.1:{listener.getsockname()[1]}", BUCKET, RequestTimeout=REQUEST_TIMEOUT), 1
    )
    silent._checksums_count = True
    begin = time.monotonic()
    with pytest.raises(Unreachable):
        put_file(silent, folder / "file", body)
    assert time.monotonic() - begin < 20 * REQUEST_TIMEOUT
    listener.close()


def test_what_was_asked_for_on_a_connection_that_ends_is_asked_for_again(store: S3ObjectStore, fake: FakeS3) -> None:
    """As any request on a kept connection, which the server may close at that very moment."""
    fake.objects["key"] = Stored(BODY, {})
    fake.add("GET", s3_faults.drop)
    asked = store.ask("key", may_connect=True)
    assert asked is not None
    come(asked)
    with store.get("key", asked) as found:
        assert b"".join(found.chunks()) == BODY
    assert [method for method, _ in fake.requests] == ["GET", "GET"]


def test_who_cannot_ask_gets_the_reason(fake: FakeS3) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    store = S3ObjectStore(settings(url, BUCKET, RequestTimeout=REQUEST_TIMEOUT, ConnectTimeout=0.5), 4)
    assert store.ask("key", may_connect=True) is None
    with pytest.raises(Unreachable), store.get("key"):
        pass


def test_asking_does_not_wait_for_new_credentials(
    store: S3ObjectStore, fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 fetches them from another server, and everybody else's downloads would wait for that."""
    fake.objects["key"] = Stored(BODY, {})
    assert read(store, "key")[1] == BODY
    asked = store.ask("key")
    assert asked is not None
    asked.close()
    monkeypatch.setattr(store._bucket._credentials, "refresh_needed", lambda: True, raising=False)
    assert store.ask("key") is None
    asked = store.ask("key", may_connect=True)
    assert asked is not None
    asked.close()


def test_who_cannot_ask_for_want_of_credentials_gets_the_reason(
    store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise CredentialsRefused("expired")

    monkeypatch.setattr(store._connection, "_keys", refuse)
    assert store.ask("key", may_connect=True) is None
    with pytest.raises(CredentialsRefused, match="expired"), store.get("key"):
        pass
