"""The published test vectors, in both directions, and the script of ENCRYPTION.md, which knows nothing of Isen."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.encryption import encrypted, flipped, keyring, put, read
from tests.fakes.memory_object_store import MemoryObjectStore
from tests.vectors.make_encryption import plaintext, vector, vectors

ROOT = Path(__file__).parents[5]
PUBLISHED: list[dict[str, Any]] = json.loads((ROOT / "tests/vectors/encryption.json").read_text())["Vectors"]
SCRIPT = re.findall(r"```python\n(.*?)```", (ROOT / "ENCRYPTION.md").read_text(), re.DOTALL)[-1]


def stored(published: dict[str, Any]) -> bytes:
    """The object of a vector; that of a long one is made anew and compared with its SHA-256."""
    if "Object" in published:
        return bytes.fromhex(published["Object"])
    _, body = vector(PUBLISHED.index(published))
    assert sha256(body).hexdigest() == published["ObjectSHA256"]
    return body


def test_encrypting_gives_the_published_objects() -> None:
    assert vectors() == PUBLISHED


@pytest.mark.parametrize("published", PUBLISHED, ids=[str(one["PlaintextSize"]) for one in PUBLISHED])
def test_decrypting_gives_the_published_plaintexts(published: dict[str, Any]) -> None:
    bucket = MemoryObjectStore()
    bucket.put_foreign(published["Name"], stored(published))
    keys = keyring(published["KeyId"], **{published["KeyId"]: bytes.fromhex(published["MasterKey"])})
    body = read(encrypted(bucket, keys), published["Name"])
    assert body == plaintext(published["PlaintextSize"])
    assert sha256(body).hexdigest() == published["PlaintextSHA256"]


def recover(folder: Path, key: bytes, body: bytes, name: str) -> subprocess.CompletedProcess[bytes]:
    """Run the script of the document, isolated from everything of ours."""
    (folder / "recover.py").write_text(SCRIPT)
    (folder / "key").write_text(base64.b64encode(key).decode() + "\n")
    (folder / "object").write_bytes(body)
    command = [sys.executable, "-I", "recover.py", "key", "object", name]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("published", PUBLISHED, ids=[str(one["PlaintextSize"]) for one in PUBLISHED])
def test_the_script_of_the_document_decrypts_the_published_objects(tmp_path: Path, published: dict[str, Any]) -> None:
    run = recover(tmp_path, bytes.fromhex(published["MasterKey"]), stored(published), published["Name"])
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout == plaintext(published["PlaintextSize"])


def test_the_script_decrypts_what_the_store_puts_today(tmp_path: Path) -> None:
    bucket, key = MemoryObjectStore(), bytes(range(50, 82))
    put(encrypted(bucket, keyring("k", k=key)), "a/prefix/name.dcm", plaintext(700_000))
    assert recover(tmp_path, key, read(bucket, "a/prefix/name.dcm"), "name.dcm").stdout == plaintext(700_000)


def test_the_script_refuses_a_wrong_key_and_damage(tmp_path: Path) -> None:
    bucket, key = MemoryObjectStore(), bytes(range(50, 82))
    put(encrypted(bucket, keyring("k", k=key)), "name", plaintext(700_000))
    body = read(bucket, "name")
    assert b"it takes another key" in recover(tmp_path, bytes(range(32)), body, "name").stderr
    for damaged, name in ((flipped(body, -1), "name"), (flipped(body, 100), "name"), (body, "other")):
        assert recover(tmp_path, key, damaged, name).returncode != 0
    assert recover(tmp_path, key, body + b"x", "name").returncode != 0
