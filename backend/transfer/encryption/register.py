"""Which keys a bucket was encrypted with, kept in the bucket, so that a wrong key is noticed before it is used.

    {RootPath/}isen-encryption-keys     {"Format": 1, "Keys": {"2026": "check value, hexadecimal"}}

Check values tell keys apart and tell nothing about them. The register protects from mistakes; against who can write the
bucket, each object is bound to its key by itself.
"""

from __future__ import annotations

import json
import logging
import threading
from hashlib import sha256
from io import BytesIO
from typing import Final

from backend.transfer.encryption.keys import Keyring
from backend.transfer.object_store.errors import AccessDenied, ObjectMissing, WrongKey
from backend.transfer.object_store.protocols import ObjectStore

log = logging.getLogger(__name__)

_NAME: Final = "isen-encryption-keys"
_FORMAT: Final = 1
_LONGEST: Final = 1024 * 1024  # bytes


class KeyRegister:
    """The register of one bucket and prefix; asked before the first object is put. Thread-safe."""

    def __init__(self, root_path: str, *, enters_keys: bool = True) -> None:
        """`enters_keys`: a new current key is made known to the bucket."""
        self._enters_keys = enters_keys
        self.key = f"{root_path}/{_NAME}" if root_path else _NAME
        self._lock = threading.Lock()
        self._is_checked = False

    def require(self, store: ObjectStore, keys: Keyring) -> None:
        """Compare the keys with those that the bucket knows, and enter a new current one. Once; after that it is free.

        Raises:
            WrongKey: the bucket knows another key by one of these ids, or the register cannot be read.
            ObjectStoreError: it cannot be told now.
        """
        with self._lock:
            if self._is_checked:
                return
            known, ours = self._read(store), keys.check_values()
            wrong = sorted(name for name in known.keys() & ours.keys() if known[name] != ours[name])
            if wrong:
                raise WrongKey(
                    f"Isen.Storage.Encryption.Keys: not the keys that the bucket was encrypted with: "
                    f"{', '.join(wrong)}; put the right ones there, or give a new key an id of its own"
                )
            absent = sorted(known.keys() - ours.keys())
            if absent:
                log.warning("encryption_key_absent ids=%s what=objects_that_need_them_cannot_be_read", ",".join(absent))
            current = keys.current.id
            if current not in known and self._enters_keys:
                self._write(store, {**known, current: ours[current]})
                log.info("encryption_key_registered id=%s", current)
            self._is_checked = True

    def require_none(self, store: ObjectStore) -> None:
        """Make sure that the bucket knows no keys. Once; after that it is free.

        Raises:
            WrongKey: it does.
            ObjectStoreError: it cannot be told now.
        """
        with self._lock:
            if self._is_checked:
                return
            known = self._read(store)
            if known:
                raise WrongKey(
                    f"the bucket is encrypted with the keys {', '.join(sorted(known))}, but Isen.Storage.Encryption is "
                    f"missing or off; name the keys there (or delete the object {self.key}, if nothing is encrypted "
                    "any more)"
                )
            self._is_checked = True

    def _read(self, store: ObjectStore) -> dict[str, str]:
        try:
            with store.get(self.key) as found:
                if found.attributes.size > _LONGEST:
                    raise ValueError
                document = json.loads(b"".join(found.chunks()))
            if document["Format"] != _FORMAT:
                raise ValueError
            return {str(name): str(value) for name, value in document["Keys"].items()}
        except (ObjectMissing, AccessDenied):  # S3 denies what is missing to those who may not list
            return {}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise WrongKey(f"the object {self.key} is not as Isen has written it; restore it") from None

    def _write(self, store: ObjectStore, known: dict[str, str]) -> None:
        content = json.dumps({"Format": _FORMAT, "Keys": known}, indent=1).encode()
        store.put(self.key, BytesIO(content), len(content), sha256(content).digest())
