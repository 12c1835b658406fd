"""Attachments as files of Orthanc's own storage area: verified, whole, and only those that are still there."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backend.atomic_file import read_digest
from backend.maintenance.export import Export
from backend.maintenance.findings import Finding
from backend.storage_directory import INCOMING, StorageDirectory, storage_path
from tests.unit.backend.maintenance.fake_archive import FakeArchive


def export(fake: FakeArchive, folder: Path) -> tuple[dict[str, int], list[Finding]]:
    failures: list[Finding] = []
    run = Export(fake.archive, folder, parallel=2, on_progress=lambda progress: None)
    run.run(failures.append)
    assert [path.name for path in (folder / INCOMING).iterdir() if path.name != "left"] == []
    return dict(run.counts), failures


def test_files_have_orthancs_layout_and_are_written_once(fake: FakeArchive, tmp_path: Path) -> None:
    name = fake.stored(b"content")
    uuid = name.removesuffix(".dcm")
    assert export(fake, tmp_path / "out") == ({"written": 1}, [])
    path = tmp_path / "out" / uuid[:2] / uuid[2:4] / uuid
    assert path == storage_path(tmp_path / "out", name)
    assert path.read_bytes() == b"content"
    assert export(fake, tmp_path / "out") == ({"present": 1}, [])
    path.write_bytes(b"half")
    (tmp_path / "out" / INCOMING / "left").write_bytes(b"by a run that was killed; an hour later it is swept")
    assert export(fake, tmp_path / "out") == ({"written": 1}, [])
    assert path.read_bytes() == b"content"


def test_what_the_bucket_does_not_have_yet_comes_from_the_spool(fake: FakeArchive, tmp_path: Path) -> None:
    name = fake.rest.add(b"content")
    fake.local("pending", name, b"content")
    assert export(fake, tmp_path / "out") == ({"written": 1}, [])
    assert storage_path(tmp_path / "out", name).read_bytes() == b"content"


def test_other_bytes_are_never_written_and_told(fake: FakeArchive, tmp_path: Path) -> None:
    altered, missing = fake.stored(b"content"), fake.rest.add(b"missing")
    fake.put(altered, b"altered")  # sound in itself, but not what the index says
    counts, failures = export(fake, tmp_path / "out")
    assert counts == {"failed": 2}
    assert {failure.name for failure in failures} == {altered, missing}
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_what_was_written_is_verified_by_isen_on_every_read_from_then_on(fake: FakeArchive, tmp_path: Path) -> None:
    name = fake.stored(b"content")
    export(fake, tmp_path / "out")
    assert read_digest(storage_path(tmp_path / "out", name)) == sha256(b"content").digest()


def test_a_file_whose_attachment_is_removed_while_it_is_written_goes_again(
    fake: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Isen has carried the removal out before there was a file."""
    name = fake.stored(b"content")
    publish = StorageDirectory.publish

    def publish_and_forget(*arguments: Any) -> None:
        publish(*arguments)
        fake.rest.forget(name)

    monkeypatch.setattr(StorageDirectory, "publish", publish_and_forget)
    assert export(fake, tmp_path / "out") == ({"removed": 1}, [])
    assert not storage_path(tmp_path / "out", name).exists()


def test_what_orthanc_removes_meanwhile_is_no_failure(fake: FakeArchive, tmp_path: Path) -> None:
    name = fake.rest.add(b"content")
    get = fake.store.get

    def removed(key: str) -> object:
        fake.rest.forget(name)
        return get(key)

    fake.store.get = removed  # type: ignore[method-assign, assignment]  # once
    assert export(fake, tmp_path / "out") == ({"removed": 1}, [])


def test_what_leaves_the_spool_at_that_moment_comes_from_the_bucket(
    fake: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.stored(b"content")
    pending = fake.local("pending", name, b"content")
    read = Path.read_bytes

    def uploaded(path: Path) -> bytes:
        if path == pending:
            pending.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", uploaded)
    assert export(fake, tmp_path / "out") == ({"written": 1}, [])
    monkeypatch.undo()
    assert storage_path(tmp_path / "out", name).read_bytes() == b"content"
