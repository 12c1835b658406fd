"""What the tests ask of a real S3 server, whichever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from backend.transfer.object_store.s3 import S3ObjectStore
from config.settings import StorageSettings

ACCESS_KEY: Final = "ISENTESTSACCESSKEY"
SECRET_KEY: Final = "made-up/secret+of=the-tests"


class RealS3:
    """A server at `url` with one user, whose keys are `ACCESS_KEY` and `SECRET_KEY`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def create_bucket(self, bucket: str) -> None:
        self.store(bucket).create_bucket()

    def keys(self, bucket: str) -> list[str]:
        """Every key in the bucket, sorted."""
        return sorted(entry.key for entry in self.store(bucket).list(""))

    def object(self, bucket: str, key: str) -> bytes:
        """The bytes of one object."""
        with self.store(bucket).get(key) as found:
            return b"".join(found.chunks())

    def store(self, bucket: str, **options: Any) -> S3ObjectStore:
        """A client of one bucket; `options` are settings of storage."""
        return S3ObjectStore(settings(self.url, bucket, **options), 4)


def settings(url: str, bucket: str, **options: Any) -> StorageSettings:
    """Storage settings for a bucket of such a server, without local folders."""
    return StorageSettings.model_validate(
        {
            "BucketName": bucket,
            "Region": "us-east-1",
            "Endpoint": url,
            "AccessKey": ACCESS_KEY,
            "SecretKey": SecretStr(SECRET_KEY),
            "VirtualAddressing": False,
            "SpoolDirectory": Path("/nonexistent"),
            "CacheDirectory": Path("/nonexistent"),
            **options,
        }
    )
