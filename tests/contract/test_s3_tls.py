"""S3 over TLS with a certificate that only `HttpsCACertificates` makes trusted, as hospitals have it."""

from __future__ import annotations

import socket
import sys
import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from backend.transfer.object_store.errors import Unreachable
from backend.transfer.object_store.s3 import S3ObjectStore
from tests.contract.test_object_store import BODY, LARGE, come, put, read, settings
from tests.fakes.certificates import Certificates, make_certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def url(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    arguments = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), "-s"]
    files = ["-c", certificates.server, "-k", certificates.server_key]
    server = Process([sys.executable, *arguments, *files], tmp_path_factory.mktemp("moto") / "log")
    wait_until(lambda: is_listening(port), 30, "the S3 server listens")
    yield f"https://127.0.0.1:{port}"
    server.stop()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_its_authority_is_trusted_for_every_operation(url: str, certificates: Certificates) -> None:
    bucket = f"bucket-{uuid.uuid4()}"
    store = S3ObjectStore(settings(url, bucket, CaCertificates=certificates.authority), 1)
    store.create_bucket()
    put(store, "key", BODY)
    put(store, "large", bytes(LARGE))
    assert read(store, "key")[1] == BODY
    asked = store.ask("key", may_connect=True)
    assert asked is not None
    come(asked)
    with store.get("key", asked) as found:
        assert b"".join(found.chunks()) == BODY
    assert store.get_range("key", 1, 3) == BODY[1:3]
    assert [entry.key for entry in store.list("")] == ["key", "large"]
    store.delete("key")


def test_a_file_is_sent_encrypted(url: str, certificates: Certificates, tmp_path: Path) -> None:
    """The kernel could send it by itself only in the clear."""
    bucket = f"bucket-{uuid.uuid4()}"
    store = S3ObjectStore(settings(url, bucket, CaCertificates=certificates.authority), 1)
    store._checksums_count = True  # moto verifies nothing
    store.create_bucket()
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    with path.open("rb") as content:
        store.put("key", content, 1_000_000, sha256(bytes(1_000_000)).digest())
    assert read(store, "key")[1] == bytes(1_000_000)
    with path.open("rb") as content, pytest.raises(OSError, match="shorter"):
        store.put("short", content, 1_000_001, sha256(bytes(1_000_001)).digest())


@pytest.mark.parametrize("trusted", [None, "client"])
def test_any_other_authority_is_not_and_the_option_is_named(
    url: str, certificates: Certificates, trusted: str | None
) -> None:
    """Neither by the pool for objects nor by boto3."""
    path: Path | None = getattr(certificates, trusted) if trusted else None
    store = S3ObjectStore(settings(url, "bucket", CaCertificates=path), 1)
    with pytest.raises(Unreachable, match="HttpsCACertificates"):
        put(store, "key", BODY)
    with pytest.raises(Unreachable, match="HttpsCACertificates"):
        list(store.list(""))
