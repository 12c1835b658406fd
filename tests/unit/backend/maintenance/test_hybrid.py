"""HybridMode for the operators' tools: a file in Orthanc's own folder is as good as an object, if it is right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backend.atomic_file import read_digest
from backend.maintenance.catalogue import Catalogue
from backend.maintenance.findings import Deed, Finding, Kind
from backend.maintenance.release import Release, StillInUse
from backend.maintenance.repair import Repair, RepairOptions
from backend.maintenance.verification import Options, Verification
from backend.maintenance.where import look_up
from backend.transfer.object_store.errors import ObjectArchived, Unreachable
from backend.transfer.object_store.protocols import ObjectAttributes
from tests.unit.backend.maintenance.fake_archive import FakeArchive

FILE = "storage-directory"


@pytest.fixture
def hybrid(fake: FakeArchive, tmp_path: Path) -> FakeArchive:
    (tmp_path / "storage").mkdir()
    fake.with_storage_directory(tmp_path / "storage")
    return fake


@pytest.fixture
def catalogue() -> Iterator[Catalogue]:
    with closing(Catalogue()) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.maintenance.patience.back_off", lambda *_, **__: 0.0)


def plain(path: Path) -> Path:
    """As Orthanc writes files: without a digest."""
    os.removexattr(path, "user.isen.sha256")
    return path


def verify(fake: FakeArchive, catalogue: Catalogue, **options: Any) -> tuple[Verification, dict[str, Kind]]:
    run = Verification(fake.archive, catalogue, Options(settle=0.0, **options), lambda progress: None)
    run.run()
    return run, {finding.name: finding.kind for finding in catalogue.findings()}


def test_an_attachment_in_the_file_system_is_not_missing(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    in_file, nowhere, in_both = hybrid.rest.add(b"file"), hybrid.rest.add(b"nowhere"), hybrid.stored(b"both")
    hybrid.local(FILE, in_file, b"file")
    hybrid.local(FILE, in_both, b"both")
    run, found = verify(hybrid, catalogue, read_data=True)
    assert found == {nowhere: Kind.MISSING}
    assert (run.counts.only_in_file_system, run.counts.read) == (1, 3)


def test_for_a_migration_only_the_bucket_counts(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    name = hybrid.rest.add(b"file")
    hybrid.local(FILE, name, b"file")
    assert verify(hybrid, catalogue, bucket_only=True)[1] == {name: Kind.MISSING}


def test_a_file_of_another_size_is_found_at_once_and_other_bytes_by_reading(
    hybrid: FakeArchive, catalogue: Catalogue
) -> None:
    short, other = hybrid.stored(b"content"), hybrid.stored(b"content")
    plain(hybrid.local(FILE, short, b"conten"))
    plain(hybrid.local(FILE, other, b"altered"))
    assert verify(hybrid, catalogue)[1] == {short: Kind.DAMAGED_FILE}
    with closing(Catalogue()) as thorough:
        assert verify(hybrid, thorough, read_data=True)[1] == {short: Kind.DAMAGED_FILE, other: Kind.DAMAGED_FILE}


def test_a_file_that_nothing_is_known_of_is_not_called_damaged(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    """StoreMD5ForAttachments was false, and Orthanc wrote it."""
    name = hybrid.rest.add(b"content")
    next(iter(hybrid.rest.instances.values()))["dicom"]["CompressedMD5"] = ""
    plain(hybrid.local(FILE, name, b"altered"))
    run, found = verify(hybrid, catalogue, read_data=True)
    assert (found, run.counts.read) == ({}, 0)


def test_a_file_that_is_removed_while_it_is_looked_at_is_nothing(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    name = hybrid.stored(b"content")
    hybrid.local(FILE, name, b"conten")
    asked: list[str] = []

    def forget_after_the_first_reading(path: str) -> None:
        if path.endswith("/info") and (asked.append(path), len(asked))[1] > 1:
            hybrid.rest.forget(name)

    hybrid.rest.before = forget_after_the_first_reading
    assert verify(hybrid, catalogue)[1] == {}


def repair(fake: FakeArchive, catalogue: Catalogue) -> dict[str, tuple[Deed, str]]:
    run, _ = verify(fake, catalogue, read_data=True)
    work = Repair(fake.archive, catalogue, RepairOptions(), lambda progress: None)
    work.plan()
    work.apply(run.counts.objects)
    return {action.finding.name: (action.deed, action.outcome) for action in catalogue.actions()}


def test_a_damaged_file_goes_only_once_the_bucket_has_the_right_bytes(
    hybrid: FakeArchive, catalogue: Catalogue
) -> None:
    stored, cached, hopeless = hybrid.stored(b"content"), hybrid.rest.add(b"content"), hybrid.rest.add(b"content")
    hybrid.local("cache", cached, b"content")
    files = [plain(hybrid.local(FILE, name, b"altered")) for name in (stored, cached, hopeless)]
    outcomes = repair(hybrid, catalogue)
    assert outcomes == {
        stored: (Deed.REMOVE_FILE, "done"),
        cached: (Deed.REMOVE_FILE, "done"),
        hopeless: (Deed.NOTHING, ""),
    }
    assert [path.exists() for path in files] == [False, False, True]
    with closing(Catalogue()) as again:
        assert verify(hybrid, again, read_data=True)[1] == {hopeless: Kind.DAMAGED_FILE}


def planned_removal(hybrid: FakeArchive, catalogue: Catalogue) -> tuple[Path, Path]:
    """A repair that is going to upload the cached copy and then remove the damaged file; both paths."""
    name = hybrid.rest.add(b"content")
    copy, file = hybrid.local("cache", name, b"content"), plain(hybrid.local(FILE, name, b"altered"))
    verify(hybrid, catalogue, read_data=True)
    Repair(hybrid.archive, catalogue, RepairOptions(), lambda progress: None).plan()
    assert [action.deed for action in catalogue.actions()] == [Deed.REMOVE_FILE]
    return copy, file


def test_a_damaged_file_stays_if_its_only_good_copy_has_gone_since(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    copy, file = planned_removal(hybrid, catalogue)
    copy.unlink()
    Repair(hybrid.archive, catalogue, RepairOptions(), lambda progress: None).apply(1)
    assert [action.outcome for action in catalogue.actions()] == ["there is no good copy"]
    assert file.exists()


def test_no_file_is_removed_where_hybrid_mode_is_off(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    _, file = planned_removal(hybrid, catalogue)
    archive = replace(hybrid.archive, storage_directory=None)
    Repair(archive, catalogue, RepairOptions(), lambda progress: None).apply(1)
    assert [action.outcome for action in catalogue.actions()] == ["HybridMode is off"]
    assert file.exists()


def test_an_object_that_is_lost_or_wrong_comes_back_from_the_file(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    name = hybrid.stored(b"content")
    hybrid.put(name, b"altered")
    hybrid.local(FILE, name, b"content")
    assert repair(hybrid, catalogue) == {name: (Deed.UPLOAD, "done")}
    with hybrid.store.get(name) as found:
        assert b"".join(found.chunks()) == b"content"


def test_where_counts_the_file(hybrid: FakeArchive) -> None:
    name = hybrid.rest.add(b"content")
    uuid = name.removesuffix(".dcm")
    assert not look_up(hybrid.archive, uuid)[0].is_safe
    path = hybrid.local(FILE, name, b"content")
    for identifier in (uuid, next(iter(hybrid.rest.instances))):
        (found,) = look_up(hybrid.archive, identifier)
        assert found.is_safe
        assert [file.place for file in found.local] == [FILE]
    assert found.document()["Local"][0]["SHA256"] == sha256(b"content").hexdigest()
    path.write_bytes(b"half")
    assert not look_up(hybrid.archive, next(iter(hybrid.rest.instances)))[0].is_safe


def migrate(fake: FakeArchive, catalogue: Catalogue) -> None:
    verify(fake, catalogue, bucket_only=True)
    Repair(fake.archive, catalogue, RepairOptions(), lambda progress: None).migrate()


def test_a_file_that_was_copied_is_verified_by_isen_from_then_on(hybrid: FakeArchive, catalogue: Catalogue) -> None:
    name = hybrid.rest.add(b"content")
    path = plain(hybrid.local(FILE, name, b"content"))
    migrate(hybrid, catalogue)
    assert hybrid.store.head(name).size == 7
    assert read_digest(path) == sha256(b"content").digest()


class Removal:
    """`isen migrate --remove-copied`, its second half."""

    def __init__(self, fake: FakeArchive, *, read_data: bool = False) -> None:
        folder = fake.archive.storage_directory
        assert folder
        self.kept: list[Finding] = []
        self.release = Release(fake.archive, folder, parallel=2, read_data=read_data, on_progress=lambda progress: None)
        self.release.check()
        self.release.run(self.kept.append)

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.release.counts)


def test_files_go_once_the_object_is_proved(hybrid: FakeArchive) -> None:
    """By ETag, by the SHA-256 beside the object, or by reading it; and only files of the index."""
    names = [hybrid.stored(b"content") for _ in range(3)]
    hybrid.store.put_foreign(names[1], b"content", digest=sha256(b"content").digest())
    hybrid.store.put_foreign(names[2], b"content")
    files = [hybrid.local(FILE, name, b"content") for name in names]
    stray = hybrid.local(FILE, "00000000-0000-4000-8000-000000000000.dcm", b"not in the index")
    assert Removal(hybrid).counts == {"removed files": 3}
    assert not any(path.exists() for path in files)
    assert stray.exists()


@pytest.mark.parametrize("read_data", [True, False])
def test_a_file_stays_while_its_object_is_missing_or_differs(hybrid: FakeArchive, read_data: bool) -> None:
    missing, short, altered, damaged = (hybrid.rest.add(b"content") for _ in range(4))
    hybrid.put(short, b"conten")
    hybrid.put(altered, b"altered")
    hybrid.store.put_foreign(damaged, b"altered", digest=bytes(32))
    files = [hybrid.local(FILE, name, b"content") for name in (missing, short, altered, damaged)]
    removal = Removal(hybrid, read_data=read_data)
    assert removal.counts == {"kept files": 4}
    assert {finding.name for finding in removal.kept} == {missing, short, altered, damaged}
    assert all(path.exists() for path in files)


def test_an_attachment_without_a_file_is_left_alone(hybrid: FakeArchive) -> None:
    name = hybrid.stored(b"content")
    assert Removal(hybrid).counts == {}
    assert hybrid.store.head(name)


def test_a_file_that_orthanc_removes_meanwhile_is_none(hybrid: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    name = hybrid.rest.add(b"content")
    hybrid.store.put_foreign(name, b"other", digest=sha256(b"content").digest())
    path = hybrid.local(FILE, name, b"content")
    monkeypatch.setattr(hybrid.store, "head", lambda _: (path.unlink(), ObjectAttributes(7, bytes(32)))[1])
    assert Removal(hybrid).counts == {}


def test_a_file_stays_while_its_object_cannot_be_read(hybrid: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hybrid.local(FILE, hybrid.stored(b"content"), b"content")

    def archived(_: str) -> Any:
        raise ObjectArchived("it is in GLACIER")

    monkeypatch.setattr(hybrid.store, "head", archived)
    removal = Removal(hybrid)
    assert [finding.found for finding in removal.kept] == ["it is in GLACIER"]
    assert path.exists()


def test_bytes_that_rotted_under_a_right_checksum_are_found_by_reading(hybrid: FakeArchive) -> None:
    name = hybrid.stored(b"content")
    hybrid.store.put_foreign(name, b"altered", digest=sha256(b"content").digest())
    path = hybrid.local(FILE, name, b"content")
    assert Removal(hybrid, read_data=True).counts == {"kept files": 1}
    assert path.exists()


def test_without_an_md5_only_a_checksum_proves_anything(hybrid: FakeArchive) -> None:
    proved, unproved = hybrid.stored(b"content"), hybrid.rest.add(b"content")
    hybrid.store.put_foreign(unproved, b"content")
    for attachments in hybrid.rest.instances.values():
        attachments["dicom"]["CompressedMD5"] = ""
    for name in (proved, unproved):
        hybrid.local(FILE, name, b"content")
    removal = Removal(hybrid)
    assert removal.counts == {"removed files": 1, "kept files": 1}
    assert [finding.name for finding in removal.kept] == [unproved]


def test_nothing_is_removed_from_under_an_orthanc_that_does_not_read_the_bucket(hybrid: FakeArchive) -> None:
    path = hybrid.local(FILE, hybrid.stored(b"content"), b"content")
    hybrid.rest.isen_status = None
    with pytest.raises(StillInUse, match="without Isen"):
        Removal(hybrid)
    hybrid.rest.isen_status = {"Storage": {"ObjectStore": {"Bucket": "another"}}}
    with pytest.raises(StillInUse, match="another"):
        Removal(hybrid)
    assert path.exists()


def test_an_object_store_that_is_away_ends_the_run_and_keeps_the_files(
    hybrid: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hybrid.local(FILE, hybrid.stored(b"content"), b"content")

    def away(_: str) -> Any:
        raise Unreachable("away")

    monkeypatch.setattr(hybrid.store, "head", away)
    with pytest.raises(Unreachable):
        Removal(hybrid)
    assert path.exists()
