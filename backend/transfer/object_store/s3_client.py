"""boto3 for one bucket: its client, its credentials, its addressing, and its exceptions translated."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.httpsession import get_cert_path

from backend.transfer.object_store.errors import CredentialsRefused, Unreachable, UnusableSettings
from backend.transfer.object_store.s3_errors import error_for
from backend.transfer.object_store.s3_signature import Keys
from config.https import verifying_context

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from config.settings import StorageSettings

NO_CREDENTIALS = (
    "no credentials for S3 were found; set Isen.Storage.AccessKey and SecretKey, "
    "or give this process a profile, a role or AWS_ACCESS_KEY_ID"
)


class BotoBucket:
    """A boto3 client and the credentials it uses, both thread-safe."""

    def __init__(self, settings: StorageSettings, connections: int) -> None:
        """Make the client; no request is sent to S3 (the default chain may ask the machine's metadata service).

        Raises:
            UnusableSettings: endpoint, bucket name or CA certificates cannot be used.
            CredentialsRefused: there are none.
        """
        self.name = settings.bucket_name
        self.region = settings.region
        self.tls = _tls(settings)
        secret = settings.secret_key.get_secret_value() if settings.secret_key else None
        session = boto3.session.Session(settings.access_key, secret, region_name=settings.region)
        try:
            self.client: S3Client = session.client(
                "s3",
                endpoint_url=_with_scheme(settings.endpoint) or None,
                verify=str(settings.ca_certificates) if settings.ca_certificates else None,
                config=_config(settings, connections),
            )
        except (ValueError, BotoCoreError) as error:
            raise UnusableSettings(f"Isen.Storage.Endpoint or Region cannot be used: {error}") from error
        with translated("finding credentials", None):
            self._credentials = session.get_credentials()
        if self._credentials is None:
            raise CredentialsRefused(NO_CREDENTIALS)

    def keys(self) -> Keys:
        """The credentials of this moment; those that expire are renewed in time.

        Raises:
            ObjectStoreError: they could not be renewed.
        """
        assert self._credentials is not None  # noqa: S101  # for mypy; __init__ has seen to it
        with translated("renewing credentials", None):
            frozen = self._credentials.get_frozen_credentials()
        return Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    def keys_are_fresh(self) -> bool:
        """Whether `keys` returns at once; it asks for new ones before these expire."""
        refresh_needed = getattr(self._credentials, "refresh_needed", None)
        return refresh_needed is None or not refresh_needed()

    def url(self) -> str:
        """What comes before a key, with its slash, as botocore's rules for endpoints and addressing make it."""
        try:
            presigned = self.client.generate_presigned_url("get_object", Params={"Bucket": self.name, "Key": "k"})
        except ParamValidationError as error:
            raise UnusableSettings(f"Isen.Storage.BucketName cannot be used: {error}") from error
        except BotoCoreError as error:
            raise UnusableSettings(f"Isen.Storage: {error}") from error
        return presigned.partition("?")[0].removesuffix("k")


@contextmanager
def translated(operation: str, key: str | None) -> Iterator[None]:
    """Turn botocore's exceptions into ours."""
    what = f"{operation} {key}" if key is not None else operation
    try:
        yield
    except ClientError as error:
        answer: Any = error.response
        raise error_for(
            answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500),
            answer.get("Error", {}).get("Code", ""),
            answer.get("Error", {}).get("Message", ""),
            operation=operation,
            key=key,
            headers=answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}),
            body_is_s3=True,
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise CredentialsRefused(NO_CREDENTIALS) from error
    except (BotoCoreError, HTTPClientError) as error:
        raise Unreachable(f"{what}: {error}") from error


def _config(settings: StorageSettings, connections: int) -> Config:
    return Config(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.request_timeout,
        retries={"total_max_attempts": 2, "mode": "standard"},  # those who call know when to try again
        tcp_keepalive=True,
        max_pool_connections=connections,
        signature_version="s3v4",
        s3={"addressing_style": "virtual" if settings.virtual_addressing else "path"},
        request_checksum_calculation="when_required",  # we give checksums ourselves; some servers refuse boto3's
        response_checksum_validation="when_required",
    )


def _tls(settings: StorageSettings) -> ssl.SSLContext:
    bundle = get_cert_path(True)  # noqa: FBT003  # botocore's own signature
    try:
        return verifying_context(settings.ca_certificates or bundle)
    except (OSError, ssl.SSLError) as error:
        raise UnusableSettings(
            f"HttpsCACertificates: {settings.ca_certificates} is not a readable file of PEM certificates: {error}"
        ) from error


def _with_scheme(endpoint: str) -> str:
    return endpoint if not endpoint or "://" in endpoint else f"https://{endpoint}"
