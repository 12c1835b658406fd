"""S3 behind the proxy of the environment, as hospitals have it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from backend.transfer.object_store.errors import Unreachable, UnusableSettings
from backend.transfer.object_store.s3 import S3ObjectStore
from tests.contract.test_object_store import BODY, put, read, settings
from tests.contract.test_s3_tls import certificates, url  # noqa: F401 - fixtures
from tests.fakes.certificates import Certificates
from tests.fakes.http_proxy import HttpProxy
from tests.fakes.s3_faults import BUCKET, FakeS3


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpProxy]:
    """A proxy that wants to know who is there; the environment names it for everything."""
    server = HttpProxy("Basic dXNlcjpzZWNyZXQ=")
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:secret@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    yield server
    server.stop()


def test_plain_requests_are_forwarded_by_it(fake: FakeS3, proxy: HttpProxy) -> None:
    store = S3ObjectStore(settings(fake.url, BUCKET), 1)
    put(store, "key", BODY)
    assert read(store, "key")[1] == BODY
    store.delete("key")
    assert proxy.requests == [f"{method} {fake.url}/{BUCKET}/key" for method in ("PUT", "GET", "DELETE")]


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


def test_one_that_lets_nobody_pass_is_named(fake: FakeS3, proxy: HttpProxy, url: str) -> None:  # noqa: F811
    proxy.authorization = "Basic other"
    with pytest.raises(Unreachable, match="407"):
        read(S3ObjectStore(settings(url, BUCKET), 1), "key")
    with pytest.raises(Exception, match="407"):
        read(S3ObjectStore(settings(fake.url, BUCKET), 1), "key")


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
