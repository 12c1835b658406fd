"""A small S3 server that verifies what moto does not, and misbehaves on demand.

Signatures, payload hashes and checksums are verified as AWS does it (the signature with botocore's own signer),
connections are kept alive, and each request can be made to meet a `Fault`. It knows PUT, GET (with Range), HEAD and
DELETE of single objects.
"""

from __future__ import annotations

import email.utils
import hashlib
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self, TypeAlias
from urllib.parse import unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.fakes.certificates import Certificates, served_in_tls

ACCESS_KEY = "FAKEACCESSKEY"
SECRET_KEY = "fake/secret+key"
REGION = "eu-west-1"
BUCKET = "bucket"

Act: TypeAlias = "Callable[[Handler, bytes], bool]"  # of a request and its body; True: it has answered


@dataclass
class Fault:
    """How requests are treated until `times` of them have met it; None: until it is taken away."""

    method: str  # "*": every one
    act: Act
    times: int | None = 1
    key: str | None = None  # None: of every object


@dataclass
class Stored:
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class FakeS3(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface from the start."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, certificates: Certificates | None = None) -> None:
        """`certificates`: it speaks TLS."""
        super().__init__(("127.0.0.1", 0), Handler)
        if certificates is not None:
            self.socket = served_in_tls(self.socket, certificates)
        self.url = f"{'https' if certificates else 'http'}://127.0.0.1:{self.server_port}"
        self.objects: dict[str, Stored] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self.echoes_checksums = True
        self.etag_is_md5 = True
        self.verifies_checksums = True  # False: repeats whatever it was given
        self.bucket_exists = True
        self.ended = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, method: str, act: Act, times: int | None = 1, key: str | None = None) -> Fault:
        fault = Fault(method, act, times, key)
        self.faults.append(fault)
        return fault

    def next_fault(self, method: str, key: str) -> Fault | None:
        for fault in self.faults:
            if fault.method in (method, "*") and fault.key in (key, None) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def get_request(self) -> tuple[socket.socket, object]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are part of the tests."""

    def stop(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeS3

    def log_message(self, *args: object) -> None:
        """Silent."""

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_POST(self) -> None:
        self._serve(self._put)  # only for what a fault answers

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._get)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str = "refused on purpose") -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())

    def store(self, body: bytes) -> None:
        kept = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
        self.server.objects[self.key] = Stored(body, kept)

    def _serve(self, normally: Callable[[bytes], None]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.key))
        fault = self.server.next_fault(self.command, self.key)
        if fault is not None and fault.act(self, body):
            return
        refusal = self._verify(body)
        if refusal is not None:
            self.refuse(*refusal)
        else:
            normally(body)

    def _verify(self, body: bytes) -> tuple[int, str] | None:
        if not self.server.bucket_exists:
            return 404, "NoSuchBucket"
        if f"Credential={ACCESS_KEY}/" not in self.headers.get("Authorization", ""):
            return 403, "InvalidAccessKeyId"
        if self.headers["Authorization"] != self._expected_authorization():
            return 403, "SignatureDoesNotMatch"
        digest = hashlib.sha256(body)
        if self.headers["x-amz-content-sha256"] != digest.hexdigest():
            return 400, "XAmzContentSHA256Mismatch"
        checksum = self.headers.get("x-amz-checksum-sha256")
        is_right = checksum in (None, b64encode(digest.digest()).decode())
        if not is_right and self.server.verifies_checksums:
            return 400, "BadDigest"
        return None

    def _expected_authorization(self) -> str:
        signed = self.headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        signer = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", REGION)
        request = AWSRequest(
            self.command, f"{self.server.url}{self.path}", {name: self.headers[name] for name in signed}
        )
        request.context["timestamp"] = self.headers["x-amz-date"]
        text = signer.string_to_sign(request, signer.canonical_request(request))
        return (
            f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={';'.join(signed)}, "
            f"Signature={signer.signature(text, request)}"
        )

    def _put(self, body: bytes) -> None:
        self.store(body)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest() if self.server.etag_is_md5 else "0" * 32
        headers = {"ETag": f'"{etag}"'}
        if not self.server.verifies_checksums:
            headers["x-amz-checksum-sha256"] = self.headers["x-amz-checksum-sha256"]
        elif self.server.echoes_checksums:
            headers["x-amz-checksum-sha256"] = b64encode(hashlib.sha256(body).digest()).decode()
        self.answer(200, headers=headers)

    def _get(self, _: bytes) -> None:
        stored = self.server.objects.get(self.key)
        if stored is None:
            self.refuse(404, "NoSuchKey")
            return
        wanted = self.headers.get("Range")
        if wanted is None:
            self.answer(200, stored.body, stored.headers)
            return
        start, end = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        if start >= len(stored.body):
            self.refuse(416, "InvalidRange")
        else:
            self.answer(206, stored.body[start : end + 1], stored.headers)

    def _delete(self, _: bytes) -> None:
        self.server.objects.pop(self.key, None)
        self.answer(204)


def refuse_with(status: int, code: str, headers: dict[str, str] | None = None) -> Act:
    def act(handler: Handler, _: bytes) -> bool:
        body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        handler.answer(status, body, headers)
        return True

    return act


def skewed(seconds: float) -> Act:
    """The server's clock differs by so much."""

    def act(handler: Handler, _: bytes) -> bool:
        handler.send_response_only(403)
        body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
        handler.send_header("Date", email.utils.formatdate(time.time() + seconds, usegmt=True))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    return act


def html(status: int) -> Act:
    """Not S3 at all, but some web server."""

    def act(handler: Handler, _: bytes) -> bool:
        handler.answer(status, b"<html><body>Not here</body></html>", {"Content-Type": "text/html"})
        return True

    return act


def answer_late(seconds: float) -> Act:
    def act(*_: object) -> bool:
        time.sleep(seconds)
        return False

    return act


def answer_after(permission: threading.Event) -> Act:
    def act(*_: object) -> bool:
        permission.wait()
        return False

    return act


def say(body: bytes) -> Act:
    """Answers with this, whatever was asked."""

    def act(handler: Handler, _: bytes) -> bool:
        handler.answer(200, body)
        return True

    return act


def say_and_hang(beginning: bytes) -> Act:
    """Begins its answer with these bytes, and never goes on."""

    def act(handler: Handler, _: bytes) -> bool:
        handler.wfile.write(beginning)
        return hang(handler, b"")

    return act


def trickle(beginning: bytes) -> Act:
    """Begins its answer with these bytes, and goes on with one more ten times a second."""

    def act(handler: Handler, _: bytes) -> bool:
        handler.wfile.write(beginning)
        while not handler.server.ended.wait(0.1):
            handler.wfile.write(b"x")
        handler.close_connection = True
        return True

    return act


def hang(handler: Handler, _: bytes) -> bool:
    """Never answers."""
    handler.server.ended.wait()
    handler.close_connection = True
    return True


def drop(handler: Handler, _: bytes) -> bool:
    """Closes the connection instead of answering."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


def store_then_fail(handler: Handler, body: bytes) -> bool:
    """Does it, and says 500."""
    handler.store(body)
    handler.refuse(500, "InternalError")
    return True


def store_damaged(handler: Handler, body: bytes) -> bool:
    """Stores other bytes than it was given, believing them right."""
    handler._put(_damaged(body))
    return True


def give_damaged(handler: Handler, _: bytes) -> bool:
    """One bit of the object is wrong."""
    stored = handler.server.objects[handler.key]
    handler.answer(200, _damaged(stored.body), stored.headers)
    return True


def give_half(handler: Handler, _: bytes) -> bool:
    """Announces the whole object and closes the connection after half of it."""
    _send_half(handler)
    handler.close_connection = True
    return True


def stall_at_half(handler: Handler, _: bytes) -> bool:
    """Announces the whole object and stops sending after half of it."""
    _send_half(handler)
    return hang(handler, b"")


def _send_half(handler: Handler) -> None:
    stored = handler.server.objects[handler.key]
    handler.send_response(200)
    for name, value in {"Content-Length": str(len(stored.body)), **stored.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(stored.body[: len(stored.body) // 2])
    handler.wfile.flush()


def _damaged(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


class DeafServer:
    """Accepts connections and never reads a byte."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
