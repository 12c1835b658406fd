"""boto3 for one bucket: its client, its credentials, its addressing, and its exceptions translated."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
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
from urllib3.exceptions import HTTPError

from backend.transfer.object_store.errors import CredentialsRefused, Unreachable, UnusableSettings
from backend.transfer.object_store.s3_connection import explained
from backend.transfer.object_store.s3_errors import error_for
from backend.transfer.object_store.s3_route import Route, RouteOptions
from backend.transfer.object_store.s3_signature import Keys
from config.https import verifying_context

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from config.settings import StorageSettings

_COMPLETION: Final = 600.0  # seconds in which a server may make one object of its parts; meanwhile it sends white space
_PIECE: Final = 256 * 1024  # bytes sent at a time
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
        self._route_options = RouteOptions(
            _tls(settings), connections, settings.connect_timeout, settings.request_timeout
        )
        self._routes: dict[str, Route] = {}  # by what comes before the path of a URL
        secret = settings.secret_key.get_secret_value() if settings.secret_key else None
        session = boto3.session.Session(settings.access_key, secret, region_name=settings.region)
        try:
            self.client: S3Client = session.client(
                "s3",
                endpoint_url=_with_scheme(settings.endpoint) or None,
                config=_config(settings),
            )
        except (ValueError, BotoCoreError) as error:
            raise UnusableSettings(f"Isen.Storage.Endpoint or Region cannot be used: {error}") from error
        self.client.meta.events.register("before-send.s3", self._send)  # type: ignore[arg-type]  # it may give an answer
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

    def route(self, url: str) -> Route:
        """How requests for this URL are sent; the same for all of a server.

        Raises:
            UnusableSettings: the endpoint or the proxy of the environment is not a URL.
        """
        server = url.partition("://")[2].partition("/")[0]
        route = self._routes.get(server)
        return route or self._routes.setdefault(server, Route(url, self._route_options))

    def _send(self, request: AWSPreparedRequest, *, event_name: str, **_: object) -> AWSResponse:
        """One request of botocore's, in place of its own session."""
        url = urlsplit(request.url)
        headers = {name: _text(value) for name, value in request.headers.items()}
        headers.pop("Expect", None)  # it is not signed, and nobody waits for leave to send the body
        path = url.path or "/"
        try:
            with self.route(request.url).exchange(
                request.method,
                f"{path}?{url.query}" if url.query else path,
                {"host": url.netloc, **headers},
                _pieces(request.body),
                patience=_COMPLETION if event_name.endswith(".CompleteMultipartUpload") else None,
            ) as answer:
                headers_of_answer: Any = answer.headers  # botocore makes its own of them
                return AWSResponse(request.url, answer.status, headers_of_answer, _Body(answer.read()))
        except HTTPError as error:
            raise _Broken(error=explained(error)) from error


class _Body(BytesIO):
    """What botocore reads of an answer."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


class _Broken(HTTPClientError):
    """There was no answer; botocore may ask once more."""

    fmt = "{error}"


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


def _config(settings: StorageSettings) -> Config:
    return Config(
        retries={"total_max_attempts": 2, "mode": "standard"},  # those who call know when to try again
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


def _pieces(body: Any) -> Iterable[bytes]:
    if hasattr(body, "read"):
        return iter(lambda: body.read(_PIECE), b"")
    return [body] if body else ()


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _with_scheme(endpoint: str) -> str:
    return endpoint if not endpoint or "://" in endpoint else f"https://{endpoint}"
