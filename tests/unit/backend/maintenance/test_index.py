"""Reading the index page by page while Orthanc adds and removes."""

from __future__ import annotations

import random

import pytest

from backend.maintenance.index import OrthancIndex
from backend.maintenance.rest import OrthancUnavailable
from tests.unit.backend.maintenance.fake_archive import FakeRest


def names(index: OrthancIndex) -> list[str]:
    return [attachment.name for _, attachments in index.attachments() for attachment in attachments]


def index_of(rest: FakeRest, *, legacy: bool = False) -> OrthancIndex:
    return OrthancIndex(rest, legacy=legacy, parallel=2)  # type: ignore[arg-type]  # the same calls


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.maintenance.index._PAGE", 20)
    monkeypatch.setattr("backend.maintenance.index._OVERLAP", 3)


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 37, 40, 100])
def test_every_attachment_is_read(count: int) -> None:
    rest = FakeRest()
    expected = [rest.add(bytes(number)) for number in range(count)]
    assert names(index_of(rest)) == expected


@pytest.mark.parametrize("seed", range(20))
def test_what_exists_all_the_time_is_read_however_many_others_are_removed_and_added_meanwhile(seed: int) -> None:
    rest, chance = FakeRest(), random.Random(seed)
    everything = [rest.add(b"x") for _ in range(200)]
    lasting = set(chance.sample(everything, 60))
    passing = [name for name in everything if name not in lasting]

    def change(path: str) -> None:
        if "since" in path:
            for _ in range(chance.randrange(25)):
                if passing:
                    rest.forget(passing.pop(chance.randrange(min(30, len(passing)))))
            rest.add(b"new")

    rest.before = change
    assert lasting <= set(names(index_of(rest)))


def test_an_attachment_removed_between_listing_and_reading_is_left_out() -> None:
    rest = FakeRest()
    kept, removed = rest.add(b"kept"), rest.add(b"removed")
    rest.before = lambda path: rest.forget(removed) if "attachments" in path else None
    assert names(index_of(rest)) == [kept]


@pytest.mark.parametrize(
    ("attachment", "kind", "legacy", "extension"),
    [
        ("dicom", 1, False, ".dcm"),
        ("dicom-as-json", 2, False, ".json"),
        ("dicom-until-pixel-data", 3, False, ".dcm.head"),
        ("1024", 1024, False, ".unk"),
        ("dicom", 1, True, ""),
    ],
)
def test_the_name_is_that_of_the_object(attachment: str, kind: int, legacy: bool, extension: str) -> None:
    rest = FakeRest()
    rest.add(b"content", instance="a", attachment=attachment, kind=kind)
    (found,) = index_of(rest, legacy=legacy).of_resource("instances", "a")
    assert found.name == rest.instances["a"][attachment]["Uuid"] + extension
    assert (found.size, found.path) == (7, f"/instances/a/attachments/{attachment}")
    del rest.instances["a"][attachment]["ContentType"]  # its name says the same
    assert index_of(rest, legacy=legacy).of_resource("instances", "a") == [found]


def test_an_attachment_written_anew_is_another_one() -> None:
    rest = FakeRest()
    old = rest.add(b"old", instance="a")
    index = index_of(rest)
    assert index.refers_to(old, "/instances/a/attachments/dicom")
    rest.add(b"new", instance="a")
    assert not index.refers_to(old, "/instances/a/attachments/dicom")
    rest.instances.clear()
    assert not index.refers_to(old, "/instances/a/attachments/dicom")


@pytest.mark.parametrize(
    "info", [{}, {"Uuid": "../../etc", "CompressedSize": 1}, {"Uuid": None, "CompressedSize": "x"}]
)
def test_an_answer_that_is_not_orthancs_is_no_finding(info: dict[str, object]) -> None:
    rest = FakeRest()
    rest.instances["a"] = {"dicom": info}
    with pytest.raises(OrthancUnavailable):
        index_of(rest).of_resource("instances", "a")


@pytest.mark.parametrize(("plugin", "is_builtin"), [(None, True), ("/usr/lib/libOrthancPostgreSQLIndex.so", False)])
def test_orthanc_says_whether_the_index_is_its_own(plugin: str | None, *, is_builtin: bool) -> None:
    rest = FakeRest()
    rest.system = {"DatabaseBackendPlugin": plugin}
    assert index_of(rest).is_builtin() == is_builtin


@pytest.mark.parametrize("system", [None, {}, {"Version": "1.10.1"}, []])
def test_an_index_of_which_nothing_is_said_is_not_taken_for_its_own(system: object) -> None:
    """None is a 404, as something between may answer."""
    rest = FakeRest()
    rest.system = system
    with pytest.raises(OrthancUnavailable, match="which index"):
        index_of(rest).is_builtin()


@pytest.mark.parametrize("answer", [None, {}, "none"])
def test_an_instance_is_unknown_only_if_orthanc_says_so(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """What is not in the index may be deleted: that a proxy or another program has no such page does not tell."""
    rest = FakeRest()
    monkeypatch.setattr(rest, "post", lambda _path, _body: answer)
    with pytest.raises(OrthancUnavailable, match="lookup"):
        index_of(rest).with_sop_instance("1.2.3")
    monkeypatch.setattr(rest, "post", lambda _path, _body: [])
    assert index_of(rest).with_sop_instance("1.2.3") == []
