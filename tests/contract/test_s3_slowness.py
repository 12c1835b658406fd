"""Nothing that S3, or the proxy before it, does slowly holds a thread for as long as it likes, whatever is asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import pytest

from backend.transfer.object_store.errors import ObjectStoreError, Unreachable
from backend.transfer.object_store.protocols import UnfinishedUpload
from backend.transfer.object_store.s3 import S3ObjectStore
from config.settings import MEGABYTE
from tests.contract.test_object_store import put, read, settings
from tests.fakes.certificates import Certificates, make_certificates, served_in_tls
from tests.fakes.s3_faults import BUCKET, Act, FakeS3, Handler, Stored, say, trickle

TIME_OUT = 0.5  # seconds of silence; the fakes are never silent for so long
BOUND = 8.0  # seconds: twice the time-out, a second attempt, a pause before it, and a busy machine
BODY = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99999\r\n"
CREATED = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
RECORD = b"\x16\x03\x03\x40\x00"  # how a handshake begins
LARGE = bytes(18 * MEGABYTE)

Operation = Callable[[S3ObjectStore], object]

OPERATIONS: dict[str, tuple[str, Operation]] = {
    "ListObjectsV2": ("GET", lambda store: list(store.list(""))),
    "ListMultipartUploads": ("GET", lambda store: list(store.list_uploads(""))),
    "AbortMultipartUpload": ("DELETE", lambda store: store.abort_upload(UnfinishedUpload("key", "1", 0))),
    "CreateBucket": ("PUT", lambda store: store.create_bucket()),
    "CreateMultipartUpload": ("POST", lambda store: put(store, "key", LARGE)),
    "UploadPart": ("PUT", lambda store: put(store, "key", LARGE)),
    "PutObject": ("PUT", lambda store: put(store, "key", b"small")),
    "GetObject": ("GET", lambda store: read(store, "key")),
    "HeadObject": ("HEAD", lambda store: store.head("key")),
    "DeleteObject": ("DELETE", lambda store: store.delete("key")),
}


@pytest.fixture
def store(fake: FakeS3) -> S3ObjectStore:
    return S3ObjectStore(settings(fake.url, BUCKET, RequestTimeout=TIME_OUT, ConnectTimeout=TIME_OUT), 4)


@pytest.mark.parametrize(
    ("name", "act"),
    [
        *((name, trickle(b"HTTP/1.1 ")) for name in OPERATIONS),
        *((name, trickle(BODY)) for name in list(OPERATIONS)[:6]),  # of the others only GetObject's has one
    ],
)
def test_an_answer_that_trickles_is_given_up(store: S3ObjectStore, fake: FakeS3, name: str, act: Act) -> None:
    method, operation = OPERATIONS[name]
    if name == "UploadPart":
        fake.add("POST", say(CREATED))
    fake.add(method, act, times=None)
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        operation(store)
    assert time.monotonic() - begun < BOUND


def take_part(handler: Handler, _: bytes) -> bool:
    handler.answer(200, headers={"ETag": '"1"'})
    return True


def complete_slowly(handler: Handler, _: bytes) -> bool:
    """As S3 says that it does: it begins with its answer, and sends white space until it knows the rest."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in [b" "] * 20 + [b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>", b""]:
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(("patience", "is_stored"), [(600.0, True), (0.5, False)])
def test_completing_an_upload_has_more_time(
    store: S3ObjectStore, fake: FakeS3, monkeypatch: pytest.MonkeyPatch, patience: float, *, is_stored: bool
) -> None:
    monkeypatch.setattr("backend.transfer.object_store.s3_client._COMPLETION", patience)
    fake.objects["key"] = Stored(LARGE)
    fake.add("POST", say(CREATED))
    fake.add("PUT", take_part, times=None)
    fake.add("POST", complete_slowly, times=None)
    if is_stored:
        put(store, "key", LARGE)
    else:
        with pytest.raises(Unreachable, match="too slow"):
            put(store, "key", LARGE)


class SlowProxy:
    """Answers CONNECT with `beginning`, then a byte of TLS ten times a second; itself in TLS with `certificates`."""

    def __init__(self, beginning: bytes, certificates: Certificates | None = None) -> None:
        self._beginning = beginning
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        if certificates is not None:
            self._listener = served_in_tls(self._listener, certificates)
        self.url = f"http{'s' if certificates else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(self._beginning)
                for byte in chain(RECORD, repeat(0)):
                    if self._ended.wait(0.1):
                        return
                    connection.sendall(bytes((byte,)))
            except OSError:
                pass  # who asked has given up


@pytest.mark.parametrize("name", ["DeleteObject", "ListObjectsV2"])
@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["status line", "headers", "S3's part of TLS"],
)
def test_a_tunnel_that_trickles_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beginning: bytes, *, is_tls: bool
) -> None:
    certificates = make_certificates(tmp_path)
    proxy = SlowProxy(beginning, certificates if is_tls else None)
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    options = {"RequestTimeout": TIME_OUT, "ConnectTimeout": TIME_OUT, "CaCertificates": certificates.authority}
    store = S3ObjectStore(settings("https://s3.test", BUCKET, **options), 4)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        OPERATIONS[name][1](store)
    assert time.monotonic() - begun < BOUND
    proxy.stop()


def test_what_is_no_answer_to_connect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = SlowProxy(b"SSH-2.0-OpenSSH\r\n")
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    store = S3ObjectStore(settings("https://s3.test", BUCKET, RequestTimeout=TIME_OUT, ConnectTimeout=TIME_OUT), 4)
    for operation in ("DeleteObject", "ListObjectsV2"):
        with pytest.raises(ObjectStoreError, match="SSH"):
            OPERATIONS[operation][1](store)
    proxy.stop()
