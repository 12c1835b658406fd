"""How the server is to keep an object: its storage class, its tags, and whether the server encrypts it.

They are sent with the object itself, so that it never exists without them and costs no second request. A server that
does not know an option refuses it or ignores it; neither is accepted for encryption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from backend.transfer.object_store.errors import ObjectStoreError, OptionRefused

if TYPE_CHECKING:
    from config.settings import StorageSettings

_ENCRYPTION: Final = "x-amz-server-side-encryption"
_PARAMETERS: Final = {  # header: what boto3 calls it
    "x-amz-storage-class": "StorageClass",
    "x-amz-tagging": "Tagging",
    _ENCRYPTION: "ServerSideEncryption",
    f"{_ENCRYPTION}-aws-kms-key-id": "SSEKMSKeyId",
    f"{_ENCRYPTION}-bucket-key-enabled": "BucketKeyEnabled",
}
_ABOUT_OPTIONS: Final = {"InvalidStorageClass", "InvalidTag", "InvalidEncryptionAlgorithmError"}
_PERHAPS_ABOUT_OPTIONS: Final = {"InvalidArgument", "InvalidRequest", "NotImplemented"}  # of MinIO and Ceph


class ObjectOptions:
    """What goes with every object that is put."""

    def __init__(self, settings: StorageSettings) -> None:
        values = (
            settings.storage_class,
            urlencode(settings.tags, quote_via=quote),
            settings.server_side_encryption.value,
            settings.sse_kms_key_id,
            "true" if settings.bucket_key_enabled else "",
        )
        self.headers = {name: value for name, value in zip(_PARAMETERS, values, strict=True) if value}
        self.parameters: dict[str, Any] = {_PARAMETERS[name]: value for name, value in self.headers.items()}
        if settings.bucket_key_enabled:
            self.parameters["BucketKeyEnabled"] = True

    def require_encryption(self, answer: Mapping[str, str]) -> None:
        """`answer` holds the headers of the answer to a PutObject or CreateMultipartUpload.

        Raises:
            OptionRefused: the object is not encrypted as it was to be.
        """
        wanted = self.headers.get(_ENCRYPTION)
        if wanted and answer.get(_ENCRYPTION) != wanted:
            raise OptionRefused(
                f"the server does not say that it has encrypted with {wanted}; choose a server that does, or empty "
                "Isen.Storage.ServerSideEncryption"
            )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Say that the options are to blame when the server refuses an object because of them."""
        try:
            yield
        except ObjectStoreError as error:
            is_certain = error.code in _ABOUT_OPTIONS or error.code.startswith("KMS.")
            if is_certain or (self.headers and error.code in _PERHAPS_ABOUT_OPTIONS):
                raise OptionRefused(
                    f"{error}; does this server support Isen.Storage.StorageClass, Tags and ServerSideEncryption as "
                    "they are set?"
                ) from error
            raise
