"""Master keys: 32 bytes in base64, in a file that only this user can read or in an environment variable.

    openssl rand -base64 32 > /etc/isen/2026.key; chmod 400 /etc/isen/2026.key

They live in the transfer process and in the operator's tools, nowhere else: settings hold only where they are.
"""

from __future__ import annotations

import hmac
import os
import stat
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backend.transfer.object_store.errors import ObjectOfAnotherKey, UnusableSettings

ENVIRONMENT: Final = "env:"  # before the name of a variable
_LONGEST_FILE: Final = 1024  # bytes
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class MasterKey:
    """A key that wraps data keys. Its check value may be known to everybody and tells it from other keys."""

    id: str
    secret: bytes = field(repr=False)
    check_value: bytes = field(init=False)

    def __post_init__(self) -> None:
        derived = HKDF(SHA512(), 16, None, b"Isen 1 key check").derive(self.secret)
        object.__setattr__(self, "check_value", derived)  # frozen


class Keyring:
    """The keys at hand: the current one encrypts, all decrypt."""

    def __init__(self, current: str, keys: Mapping[str, bytes]) -> None:
        """`keys` are the secrets by their ids; `current` is one of these."""
        self._keys = {name: MasterKey(name, secret) for name, secret in keys.items()}
        self.current = self._keys[current]

    def check_values(self) -> dict[str, str]:
        """Id → check value, hexadecimal."""
        return {key.id: key.check_value.hex() for key in self._keys.values()}

    def find(self, key_id: str, check_value: bytes, name: str) -> MasterKey:
        """The key of this id.

        Raises:
            ObjectOfAnotherKey: it is not here, or another key has its id.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise ObjectOfAnotherKey(
                f"{name} is encrypted with the key {key_id!r}, which is not in Isen.Storage.Encryption.Keys"
            )
        if not hmac.compare_digest(key.check_value, check_value):
            raise ObjectOfAnotherKey(
                f"{name} is encrypted with another key {key_id!r} than the one in Isen.Storage.Encryption.Keys"
            )
        return key


def read_key(source: str, option: str) -> bytes:
    """The secret at `source`, a path or `env:NAME`; `option` is the setting's path, for messages.

    Raises:
        UnusableSettings: there is none, or others can read it.
    """
    text = _variable(source, option) if source.startswith(ENVIRONMENT) else _file(source, option)
    try:
        secret = b64decode(text.strip(), validate=True)
    except ValueError:
        secret = b""
    if len(secret) != 32 or len(set(secret)) == 1:
        raise UnusableSettings(f"{option}: is not a key; make one with `openssl rand -base64 32`") from None
    return secret


def _variable(source: str, option: str) -> bytes:
    name = source.removeprefix(ENVIRONMENT)
    if name not in os.environ:
        raise UnusableSettings(f"{option}: the environment variable {name} is not set")
    return os.environ[name].encode()


def _file(path: str, option: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            content = file.read(_LONGEST_FILE)
    except OSError as error:
        raise UnusableSettings(f"{option}: {path} cannot be read: {os.strerror(error.errno or 0)}") from None
    if status.st_mode & _OTHERS:
        raise UnusableSettings(f"{option}: other users may use {path}; chmod 400 {path}")
    if status.st_uid not in (os.geteuid(), 0):
        raise UnusableSettings(f"{option}: {path} belongs to another user; chown it to the user that Orthanc runs as")
    return content
