"""S3 behind the proxy of the environment, as hospitals have it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from backend.stack.s3_server import S3Server
from backend.transfer.object_store.errors import ObjectStoreError, Unreachable, UnusableSettings
from backend.transfer.object_store.s3 import S3ObjectStore
from tests.contract.test_object_store import BODY, LARGE, come, put, read, settings
from tests.contract.test_s3_tls import certificates, url  # noqa: F401 - fixtures
from tests.fakes.certificates import Certificates
from tests.fakes.http_proxy import HttpProxy
from tests.fakes.s3_faults import BUCKET, FakeS3, drop, give_half


@pytest.fixture(params=["http", "https"])
def proxy(
    request: pytest.FixtureRequest,
    certificates: Certificates,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[HttpProxy]:
    """A proxy that wants to know who is there, spoken to in the clear or in TLS; the environment names it for all."""
    server = HttpProxy("Basic dXNlcjpzZWNyZXQ=", certificates if request.param == "https" else None)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", f"{request.param}://user:secret@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    yield server
    server.stop()


def test_plain_requests_are_forwarded_by_it(
    fake: FakeS3,
    proxy: HttpProxy,
    certificates: Certificates,  # noqa: F811
) -> None:
    store = S3ObjectStore(settings(fake.url, BUCKET, CaCertificates=certificates.authority), 1)
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY
    store.delete("key")
    assert proxy.requests == [f"{method} {fake.url}/{BUCKET}/key" for method in ("PUT", "GET", "DELETE")]


def test_it_forwards_what_boto3_asks_too(
    moto: S3Server,
    proxy: HttpProxy,
    certificates: Certificates,  # noqa: F811
) -> None:
    bucket = f"bucket-{uuid.uuid4()}"
    store = S3ObjectStore(settings(moto.url, bucket, CaCertificates=certificates.authority), 1)
    store.create_bucket()
    put(store, "large", bytes(LARGE))
    assert [entry.key for entry in store.list("")] == ["large"]
    assert f"POST {moto.url}/{bucket}/large?uploads" in proxy.requests
    assert f"GET {moto.url}/{bucket}?list-type=2&prefix=&encoding-type=url" in proxy.requests


def test_tls_goes_through_a_tunnel_and_is_verified(
    url: str,  # noqa: F811 - the fixture
    certificates: Certificates,  # noqa: F811
    proxy: HttpProxy,
) -> None:
    bucket = f"bucket-{uuid.uuid4()}"
    store = S3ObjectStore(settings(url, bucket, CaCertificates=certificates.authority), 1)
    store.create_bucket()
    proxy.requests.clear()
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY
    assert set(proxy.requests) == {f"CONNECT {url.removeprefix('https://')}"}
    with pytest.raises(Unreachable, match="HttpsCACertificates"):
        read(S3ObjectStore(settings(url, bucket), 1), "key")


def test_a_tunnel_is_kept_until_s3_closes_it(
    certificates: Certificates,  # noqa: F811
    proxy: HttpProxy,
) -> None:
    fake = FakeS3(certificates)
    store = S3ObjectStore(settings(fake.url, BUCKET, CaCertificates=certificates.authority), 1)
    for _ in range(2):
        put(store, "key", BODY)
        assert read(store, "key")[1] == BODY
        assert store.get_range("key", 1, 3) == BODY[1:3]
    assert proxy.requests == [f"CONNECT {fake.url.removeprefix('https://')}"]
    fake.add("GET", drop)
    assert read(store, "key")[1] == BODY
    fake.add("GET", give_half)
    with pytest.raises(Unreachable, match="early"):
        read(store, "key")
    assert len(proxy.requests) == 2
    fake.stop()


def test_a_file_is_sent_through_a_tunnel(
    url: str,  # noqa: F811
    certificates: Certificates,  # noqa: F811
    proxy: HttpProxy,
    tmp_path: Path,
) -> None:
    """The kernel cannot send it by itself."""
    store = S3ObjectStore(settings(url, f"bucket-{uuid.uuid4()}", CaCertificates=certificates.authority), 1)
    store._checksums_count = True  # moto verifies nothing
    store.create_bucket()
    path = tmp_path / "file"
    path.write_bytes(BODY)
    with path.open("rb") as content:
        store.put("key", content, len(BODY), sha256(BODY).digest())
    assert read(store, "key")[1] == BODY


def test_an_answer_is_asked_for_ahead_unless_only_its_reader_can_tell_that_it_has_come(
    url: str,  # noqa: F811
    certificates: Certificates,  # noqa: F811
    proxy: HttpProxy,
    request: pytest.FixtureRequest,
) -> None:
    """poll(2) knows nothing of what TLS within TLS has decrypted already."""
    store = S3ObjectStore(settings(url, f"bucket-{uuid.uuid4()}", CaCertificates=certificates.authority), 1)
    store.create_bucket()
    put(store, "key", BODY)
    asked = store.ask("key", may_connect=True)
    if request.node.callspec.params["proxy"] == "https":
        assert asked is None
    else:
        assert asked is not None
        come(asked)
    with store.get("key", asked) as found:
        assert b"".join(found.chunks()) == BODY


def test_one_that_lets_nobody_pass_is_named(
    fake: FakeS3,
    proxy: HttpProxy,
    url: str,  # noqa: F811
    certificates: Certificates,  # noqa: F811
) -> None:
    proxy.authorization = "Basic other"
    for endpoint in (url, fake.url):
        with pytest.raises(ObjectStoreError, match="407"):
            read(S3ObjectStore(settings(endpoint, BUCKET, CaCertificates=certificates.authority), 1), "key")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_one_with_a_certificate_that_is_not_trusted_is_not_used(
    certificates: Certificates,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    """Neither for objects nor for what boto3 asks: it would learn names, and might forge answers."""
    server = HttpProxy(certificates=certificates)
    monkeypatch.setenv(f"{scheme}_proxy", f"https://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    store = S3ObjectStore(settings(f"{scheme}://s3.test", BUCKET), 1)
    with pytest.raises(Unreachable, match="HttpsCACertificates"):
        put(store, "key", BODY)
    with pytest.raises(Unreachable, match="HttpsCACertificates"):
        list(store.list(""))
    assert server.requests == []
    server.stop()


def test_one_that_is_not_there_is_unreachable(fake: FakeS3, proxy: HttpProxy) -> None:
    proxy.stop()
    with pytest.raises(Unreachable):
        read(S3ObjectStore(settings(fake.url, BUCKET), 1), "key")


def test_what_no_proxy_names_is_reached_directly(
    fake: FakeS3, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    put(S3ObjectStore(settings(fake.url, BUCKET), 1), "key", BODY)
    assert proxy.requests == []


def test_one_that_cannot_be_used_is_named(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UnusableSettings, match="Proxy"):
        S3ObjectStore(settings(fake.url, BUCKET), 1)
