"""Repair adds before it deletes, and deletes nothing that could still be needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import generate_uid

from backend.maintenance.catalogue import Catalogue
from backend.maintenance.content import orthanc_id
from backend.maintenance.findings import Action, Deed
from backend.maintenance.repair import Repair, RepairOptions, TooManyDeletions
from backend.maintenance.rest import OrthancRefused
from backend.maintenance.verification import Options, Verification
from backend.transfer.object_store.errors import ObjectMissing, RequestRefused, Unreachable
from backend.transfer.object_store.protocols import UnfinishedUpload
from tests.fakes.images import made_up_ct
from tests.unit.backend.maintenance.fake_archive import FakeArchive

OLD = 2 * 86400.0
ORPHAN = "00000000-0000-4000-8000-000000000000"


class Run:
    """A verification and what repair makes of it."""

    def __init__(self, fake: FakeArchive, catalogue: Catalogue, **options: Any) -> None:
        self.catalogue = catalogue
        verification = Verification(fake.archive, catalogue, Options(settle=0.0), lambda progress: None)
        verification.run()
        self.objects = verification.counts.objects
        self.repair = Repair(
            fake.archive, catalogue, RepairOptions(**{"maximum_share": 1.0, **options}), lambda progress: None
        )
        self.repair.plan()

    def deeds(self) -> dict[str, Deed]:
        return {action.finding.name: action.deed for action in self.catalogue.actions()}

    def apply(self) -> dict[str, str]:
        self.repair.apply(self.objects)
        return {action.finding.name: action.outcome for action in self.catalogue.actions()}


@pytest.fixture
def catalogue() -> Iterator[Catalogue]:
    with closing(Catalogue()) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.maintenance.patience.back_off", lambda *_, **__: 0.0)


def image() -> tuple[bytes, str]:
    """A DICOM file and Orthanc's identifier of it."""
    file = BytesIO()
    made_up_ct(generate_uid(), generate_uid(), 1, side=8).save_as(file, enforce_file_format=True)
    return file.getvalue(), orthanc_id(file.getvalue()) or ""


def content_of(fake: FakeArchive, key: str) -> bytes:
    with fake.store.get(key) as found:
        return b"".join(found.chunks())


@pytest.mark.parametrize("place", ["cache", "quarantine"])
def test_a_lost_object_comes_back_from_a_good_copy(fake: FakeArchive, catalogue: Catalogue, place: str) -> None:
    """Also from quarantine, if it is the digest that was damaged and not the bytes."""
    name = fake.rest.add(b"content")
    fake.local(place, name, b"content", digest=bytes(32) if place == "quarantine" else None)
    run = Run(fake, catalogue)
    assert run.deeds() == {name: Deed.UPLOAD}
    assert run.apply() == {name: "done"}
    assert content_of(fake, name) == b"content"


@pytest.mark.parametrize(
    ("content", "digest", "knows_md5"),
    [
        (b"altered", None, True),  # the digest fits, the index's MD5 does not
        (b"content", bytes(32), True),  # damaged since it was cached, or never right
        (b"conten", None, True),
        (b"altered", bytes(32), False),
    ],
)
def test_a_copy_with_other_bytes_is_never_uploaded(
    fake: FakeArchive, catalogue: Catalogue, content: bytes, digest: bytes | None, knows_md5: bool
) -> None:
    name = fake.rest.add(b"content")
    if not knows_md5:
        next(iter(fake.rest.instances.values()))["dicom"]["CompressedMD5"] = ""
    fake.local("cache", name, content, digest)
    assert Run(fake, catalogue).deeds() == {name: Deed.NOTHING}


HEAD = "dicom-until-pixel-data"


def test_a_lost_beginning_of_a_file_is_made_again_from_the_file(fake: FakeArchive, catalogue: Catalogue) -> None:
    """What `Durability` "ObjectStore" relies on: it does not wait for S3 to have the beginning as well."""
    file = fake.rest.add(b"head and pixels", instance="i")
    head = fake.rest.add(b"head", instance="i", attachment=HEAD, kind=3)
    fake.put(file, b"head and pixels")
    run = Run(fake, catalogue)
    assert run.deeds() == {head: Deed.UPLOAD}
    assert run.apply() == {head: "done"}
    assert content_of(fake, head) == b"head"


@pytest.mark.parametrize("stored", [None, b"HEAD and pixels", b"hea"])
def test_a_beginning_is_never_made_from_other_bytes(
    fake: FakeArchive, catalogue: Catalogue, stored: bytes | None
) -> None:
    fake.rest.add(b"head and pixels", instance="i")
    head = fake.rest.add(b"head", instance="i", attachment=HEAD, kind=3)
    if stored is not None:
        fake.put(next(iter(fake.rest.instances["i"].values()))["Uuid"] + ".dcm", stored)
    assert Run(fake, catalogue).deeds()[head] is Deed.NOTHING


def test_an_upload_whose_attachment_is_removed_meanwhile_leaves_no_object(
    fake: FakeArchive, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.rest.add(b"content")
    fake.local("cache", name, b"content")
    run = Run(fake, catalogue)
    put = fake.store.put

    def put_and_forget(*arguments: Any) -> None:
        put(*arguments)
        fake.rest.forget(name)

    monkeypatch.setattr(fake.store, "put", put_and_forget)
    assert run.apply() == {name: "Orthanc has removed it meanwhile"}
    with pytest.raises(ObjectMissing):
        fake.store.head(name)


def test_what_was_removed_after_the_plan_is_not_uploaded(fake: FakeArchive, catalogue: Catalogue) -> None:
    name = fake.rest.add(b"content")
    fake.local("cache", name, b"content")
    run = Run(fake, catalogue)
    fake.rest.forget(name)
    assert run.apply() == {name: "Orthanc has removed it meanwhile"}
    assert list(fake.store.list("")) == []


@pytest.mark.parametrize("is_shorter", [False, True])
def test_a_beginning_is_not_made_without_the_file_it_is_of(
    fake: FakeArchive, catalogue: Catalogue, *, is_shorter: bool
) -> None:
    if is_shorter:
        fake.stored(b"hea", instance="i")
    head = fake.rest.add(b"head", instance="i", attachment=HEAD, kind=3)
    assert Run(fake, catalogue).deeds()[head] is Deed.NOTHING


def test_a_copy_evicted_after_the_plan_is_told(fake: FakeArchive, catalogue: Catalogue) -> None:
    name = fake.rest.add(b"content")
    copy = fake.local("cache", name, b"content")
    run = Run(fake, catalogue)
    copy.unlink()
    assert run.apply() == {name: "there is no good copy"}


def test_orphans_are_deleted_only_if_orthanc_has_the_image_in_the_bucket(
    fake: FakeArchive, catalogue: Catalogue
) -> None:
    (known, known_id), (lost, lost_id), (unknown, _) = image(), image(), image()
    fake.stored(known, instance=known_id)
    lost_name = fake.rest.add(lost, instance=lost_id)  # its object is not in the bucket
    orphans = {f"{ORPHAN[:-1]}{number}": content for number, content in enumerate((known, lost, unknown))}
    for uuid, content in orphans.items():
        fake.put(f"{uuid}.dcm", content, age=OLD)
    fake.put(f"{ORPHAN[:-1]}3.dcm.head", known[:-64], age=OLD)
    fake.put(f"{ORPHAN[:-1]}4.json", b"{}", age=OLD)
    fake.put(f"{ORPHAN[:-1]}5.unk", b"a report", age=OLD)
    nothing, delete = Deed.NOTHING, Deed.DELETE
    expected = [delete, nothing, nothing, delete, delete, nothing]
    run = Run(fake, catalogue)
    deeds = run.deeds()
    assert deeds.pop(lost_name) is nothing
    assert [deeds[name] for name in sorted(deeds)] == expected
    run.apply()
    left = {entry.key[35] for entry in fake.store.list(ORPHAN[:-1])}
    assert left == {"1", "2", "5"}


def test_a_reference_that_shows_up_before_the_deletion_stops_it(fake: FakeArchive, catalogue: Catalogue) -> None:
    """As after a restored index; the identifier in the bytes finds it even where reading the index would not."""
    content, instance = image()
    fake.stored(content, instance=instance)
    name = f"{ORPHAN}.unk"
    fake.put(name, b"a report", age=OLD)
    twin = f"{ORPHAN[:-1]}1.dcm"
    fake.put(twin, content, age=OLD)
    run = Run(fake, catalogue, delete_unknown=True)
    assert set(run.deeds().values()) == {Deed.DELETE}
    for key, kind in ((name, 0), (twin, 1)):
        info = {"Uuid": key[:36], "ContentType": kind, "CompressedSize": 8, "CompressedMD5": ""}
        fake.rest.instances.setdefault(instance if kind else "other", {})[f"attachment-{kind}"] = info
    assert set(run.apply().values()) == {"Orthanc refers to it after all"}
    assert {name, twin} <= {entry.key for entry in fake.store.list("")}


def test_an_orphan_that_the_index_refers_to_by_now_is_none(fake: FakeArchive, catalogue: Catalogue) -> None:
    content, instance = image()
    fake.put(f"{ORPHAN}.dcm", content, age=OLD)
    verification = Verification(fake.archive, catalogue, Options(settle=0.0), lambda progress: None)
    verification.run()
    info = {"Uuid": ORPHAN, "ContentType": 1, "CompressedSize": len(content), "CompressedMD5": ""}
    fake.rest.instances[instance] = {"dicom": info}
    Repair(fake.archive, catalogue, RepairOptions(maximum_share=1.0), lambda progress: None).plan()
    ((deed, reason),) = [(action.deed, action.reason) for action in catalogue.actions()]
    assert (deed, reason) == (Deed.NOTHING, "Orthanc refers to it after all")


@pytest.mark.parametrize(
    ("happens", "outcome"),
    [("deleted", "it has been deleted meanwhile"), ("lost", "but not in the bucket")],
)
def test_an_orphan_is_looked_at_once_more_before_it_goes(
    fake: FakeArchive, catalogue: Catalogue, happens: str, outcome: str
) -> None:
    """The image's other object may have been lost since, which makes this one the last."""
    content, instance = image()
    kept = fake.stored(content, instance=instance)
    orphan = f"{ORPHAN}.dcm"
    fake.put(orphan, content, age=OLD)
    run = Run(fake, catalogue)
    assert run.deeds() == {orphan: Deed.DELETE}
    fake.store.delete(orphan if happens == "deleted" else kept)
    assert outcome in run.apply()[orphan]
    assert [entry.key for entry in fake.store.list("")] == [kept if happens == "deleted" else orphan]


def test_what_is_in_the_spool_again_is_not_deleted(fake: FakeArchive, catalogue: Catalogue) -> None:
    name = f"{ORPHAN}.json"
    fake.put(name, b"{}", age=OLD)
    run = Run(fake, catalogue)
    fake.local("pending", name, b"{}")
    assert run.apply() == {name: "it is in the spool"}


def test_too_many_deletions_are_refused_and_all_else_is_done(fake: FakeArchive, catalogue: Catalogue) -> None:
    names = [f"{ORPHAN[:-1]}{number}.json" for number in range(3)]
    for name in names:
        fake.put(name, b"{}", age=OLD)
    lost = fake.rest.add(b"content")
    fake.local("cache", lost, b"content")
    run = Run(fake, catalogue, maximum_share=0.5)
    with pytest.raises(TooManyDeletions, match="3 of 3 objects"):
        run.apply()
    assert {entry.key for entry in fake.store.list("")} == {lost, *names}


def test_adopting_posts_each_unknown_image_once_and_deletes_nothing(fake: FakeArchive, catalogue: Catalogue) -> None:
    content, _ = image()
    name = f"{ORPHAN}.dcm"
    fake.put(name, content, age=OLD)
    fake.put(f"{ORPHAN[:-1]}1.unk", b"a report", age=OLD)
    fake.put(f"{ORPHAN[:-1]}2.json", b"{}", age=OLD)
    run = Run(fake, catalogue, adopt=True, delete_unknown=True)
    assert run.apply() == {name: "done", f"{ORPHAN[:-1]}1.unk": "", f"{ORPHAN[:-1]}2.json": ""}
    assert fake.rest.posted == [content]
    assert len(list(fake.store.list(""))) == 3


@pytest.mark.parametrize("by", ["somebody else", "a sender, and it is in the spool", "a deletion"])
def test_an_image_that_need_not_be_adopted_any_more_is_not_posted(
    fake: FakeArchive, catalogue: Catalogue, by: str
) -> None:
    content, instance = image()
    name = f"{ORPHAN}.dcm"
    fake.put(name, content, age=OLD)
    run = Run(fake, catalogue, adopt=True)
    if by == "somebody else":
        fake.stored(content, instance=instance)
    elif by == "a deletion":
        fake.store.delete(name)
    else:
        fake.rest.add(content, instance=instance)
    assert run.apply() == {name: "it has been deleted meanwhile" if by == "a deletion" else "done"}
    assert fake.rest.posted == []


def test_an_image_that_orthanc_does_not_take_is_told(
    fake: FakeArchive, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(f"{ORPHAN}.dcm", image()[0], age=OLD)
    run = Run(fake, catalogue, adopt=True)
    fake.rest.status = "FilteredOut"
    assert run.apply() == {f"{ORPHAN}.dcm": "Orthanc answered FilteredOut"}

    def full(path: str, body: bytes) -> Any:
        raise OrthancRefused("POST /instances was answered 500")

    monkeypatch.setattr(fake.rest, "post", full)
    assert "500" in run.apply()[f"{ORPHAN}.dcm"]


def test_a_damaged_orphan_is_not_adopted(fake: FakeArchive, catalogue: Catalogue) -> None:
    content, _ = image()
    fake.put(f"{ORPHAN}.dcm", content, age=OLD)
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    fake.store.put_foreign(f"{ORPHAN}.dcm", damaged, fake.store.head(f"{ORPHAN}.dcm").digest)
    fake.store.modified[f"{ORPHAN}.dcm"] -= OLD
    assert Run(fake, catalogue, adopt=True).deeds() == {f"{ORPHAN}.dcm": Deed.NOTHING}


def test_stale_uploads_are_aborted(fake: FakeArchive, catalogue: Catalogue) -> None:
    name = fake.stored(b"content")
    fake.store.uploads += [UnfinishedUpload(name, number, 1.0) for number in "12"]
    run = Run(fake, catalogue)
    run.apply()
    assert fake.store.uploads == []
    assert [action.outcome for action in catalogue.actions()] == ["done", "done"]


def test_one_refusal_does_not_stop_the_others_but_an_outage_does(
    fake: FakeArchive, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{ORPHAN[:-1]}{number}.json" for number in range(3)]
    for name in names:
        fake.put(name, b"{}", age=OLD)
    run = Run(fake, catalogue)
    delete = fake.store.delete

    def refuse_one(key: str) -> None:
        if key == names[1]:
            raise RequestRefused("object lock")
        delete(key)

    monkeypatch.setattr(fake.store, "delete", refuse_one)
    assert run.apply() == {names[0]: "done", names[1]: "object lock", names[2]: "done"}

    def away(key: str) -> None:
        raise Unreachable("away")

    monkeypatch.setattr(fake.store, "delete", away)
    fake.put(names[0], b"{}", age=OLD)
    with pytest.raises(Unreachable):
        run.apply()


def test_more_findings_than_a_batch_each_have_their_action(fake: FakeArchive, catalogue: Catalogue) -> None:
    names = [f"00000000-0000-4000-8000-{number:012}.json" for number in range(200)]
    for name in names:
        fake.put(name, b"{}", age=OLD)
    outcomes = Run(fake, catalogue).apply()
    assert outcomes == dict.fromkeys(names, "done")
    actions: list[Action] = list(catalogue.actions(Deed.DELETE))
    assert [action.finding.name for action in actions] == names
