"""Makes `encryption.json`, the test vectors of ENCRYPTION.md, from fixed keys and nonces, and prints it.

They were made once. A change of this output is a change of the format, which then needs another version number.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from io import BytesIO
from typing import Any

from backend.transfer.encryption.envelope import CHUNK, Randomness, seal
from backend.transfer.encryption.keys import Keyring
from backend.transfer.encryption.reader import EncryptedContent

SIZES = (0, 5, 1000, CHUNK, 2 * CHUNK + 1)
LONGEST_SHOWN = 2000  # bytes


def plaintext(size: int) -> bytes:
    """Bytes 0 to 250, again and again."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def vectors() -> list[dict[str, Any]]:
    """The vectors as JSON values; bytes are hexadecimal."""
    return [vector(number)[0] for number in range(len(SIZES))]


def vector(number: int) -> tuple[dict[str, Any], bytes]:
    """One vector, and its object whole."""
    size = SIZES[number]

    def fixed(purpose: str, length: int = 32) -> bytes:
        return sha256(f"{purpose} {number}".encode()).digest()[:length]

    master_key, key_id = fixed("master key"), f"vector-{number}"
    name = f"00000000-0000-4000-8000-{number:012}.dcm"
    randomness = Randomness(fixed("data key"), fixed("message id"), fixed("nonce", 12))
    body = plaintext(size)
    envelope = seal(Keyring(key_id, {key_id: master_key}).current, name, size, sha256(body).digest(), randomness)
    stored = EncryptedContent(BytesIO(body), envelope, name).read()
    shown: dict[str, Any] = {
        "Name": name,
        "KeyId": key_id,
        "MasterKey": master_key.hex(),
        "DataKey": randomness.data_key.hex(),
        "MessageId": randomness.message_id.hex(),
        "Nonce": randomness.nonce.hex(),
        "PlaintextSize": size,
        "PlaintextSHA256": sha256(body).hexdigest(),
        "Header": stored[:226].hex(),
        "ObjectSize": len(stored),
        "ObjectSHA256": sha256(stored).hexdigest(),
    }
    if len(stored) <= LONGEST_SHOWN:
        shown |= {"Object": stored.hex()}
    return shown, stored


if __name__ == "__main__":
    document = {"Format": 1, "Plaintext": "the bytes 0 to 250, again and again", "Vectors": vectors()}
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
