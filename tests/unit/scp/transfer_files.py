"""Files that a made-up transfer process hands over, and which of them are open."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path

from backend.atomic_file import write_digest
from tests.fakes.transfer_thread import Transfer

UUID = "11111111-2222-3333-4444-555555555555"
OTHER = "11111111-2222-3333-4444-666666666666"
CONTENT = b"the image" * 100


def hand_over(
    transfer: Transfer, path: Path, content: bytes = CONTENT, digest_of: bytes | None = None, *, verified: float = 0
) -> None:
    """`verified`: so many seconds ago."""
    path.write_bytes(content)
    write_digest(path, sha256(content if digest_of is None else digest_of).digest())
    verified_at = time.monotonic() - verified if verified else 0
    transfer.answer = lambda _: ({"Result": "ok", "VerifiedAt": verified_at}, [os.open(path, os.O_RDONLY)])


def open_below(folder: Path) -> list[str]:
    """Files of this folder that this process has open."""
    with os.scandir("/proc/self/fd") as descriptors:
        found = [os.path.realpath(entry) for entry in descriptors if os.path.lexists(entry)]
    return [path for path in found if path.startswith(f"{folder}/")]


def is_open(path: Path) -> bool:
    """Whether this process has the file open; the thread that plays the transfer process is in it, too."""
    with os.scandir("/proc/self/fd") as descriptors:
        return any(os.path.lexists(entry) and os.path.realpath(entry) == str(path) for entry in descriptors)
