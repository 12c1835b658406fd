"""Copies of lost objects: in any layout, in folders and other buckets, and only with the right bytes."""

from __future__ import annotations

from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest

from backend.maintenance.copies import BucketCopies, Copies, FolderCopies
from backend.maintenance.findings import Finding, Kind
from backend.transfer.object_store.errors import Unreachable
from tests.fakes.memory_object_store import MemoryObjectStore

UUID = "11223333-4444-5555-6666-777777777777"
FLAT, LEGACY = f"{UUID}.dcm", UUID
MD5 = md5(b"content", usedforsecurity=False).hexdigest()


def lost(name: str = FLAT, key: str = "") -> Finding:
    return Finding(Kind.MISSING, name, key or name, "", "/instances/a/attachments/dicom", size=7, md5=MD5)


def contents(copies: Copies, finding: Finding) -> list[tuple[str, bytes]]:
    found = []
    for where, content in copies.of(finding):
        content.seek(0)
        found.append((where, content.read()))
    return found


@pytest.mark.parametrize("name", [FLAT, LEGACY])
@pytest.mark.parametrize(
    "place",
    [f"11/22/{UUID}", FLAT, f"root/{FLAT}", f"11/{FLAT}", UUID],
    ids=["StorageDirectory", "flat bucket", "bucket with a root", "cache", "bare"],
)
def test_every_layout_is_found(tmp_path: Path, name: str, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"content")
    finding = lost(name, f"root/{name}" if place.startswith("root") and name == FLAT else name)
    if place.startswith("root") and name == LEGACY:
        finding = lost(name, place)
    assert contents(FolderCopies(tmp_path), finding) == [(str(tmp_path / place), b"content")]


@pytest.mark.parametrize("content", [b"altered", b"conten", b""])
def test_other_bytes_are_no_copy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FLAT).write_bytes(content)
    assert contents(FolderCopies(tmp_path), lost()) == []
    store = MemoryObjectStore()
    store.put_foreign(FLAT, content)
    assert contents(BucketCopies("other", store, "", legacy=False), lost()) == []


def test_what_is_in_the_way_is_no_copy(tmp_path: Path) -> None:
    (tmp_path / "11").write_bytes(b"a file")
    (tmp_path / FLAT).mkdir()
    assert contents(FolderCopies(tmp_path), lost()) == []


@pytest.mark.parametrize("name", [FLAT, LEGACY])
@pytest.mark.parametrize(
    ("root_path", "legacy", "key"),
    [("", False, FLAT), ("a/b", False, f"a/b/{FLAT}"), ("", True, f"11/22/{UUID}"), ("x", True, f"x/11/22/{UUID}")],
)
def test_another_bucket_may_have_another_structure(name: str, root_path: str, legacy: bool, key: str) -> None:
    store = MemoryObjectStore()
    store.put_foreign(key, b"content", digest=sha256(b"content").digest())
    copies = BucketCopies("other", store, root_path, legacy=legacy)
    assert contents(copies, lost(name)) == [(f"other/{key}", b"content")]


def test_a_copy_whose_own_checksum_does_not_fit_is_none() -> None:
    store = MemoryObjectStore()
    store.put_foreign(FLAT, b"content", digest=bytes(32))
    assert contents(BucketCopies("other", store, "", legacy=False), lost()) == []


def test_another_bucket_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.maintenance.patience.back_off", lambda *_, **__: 0.0)
    store = MemoryObjectStore()

    def away(_: str) -> Any:
        raise Unreachable("away")

    monkeypatch.setattr(store, "get", away)
    with pytest.raises(Unreachable):
        contents(BucketCopies("other", store, "", legacy=False), lost())
