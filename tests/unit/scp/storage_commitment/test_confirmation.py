"""The Failure Reason of each instance (PS3.3 C.14.1.1), from Orthanc's index and the state of its object in S3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from scp.orthanc_client import OrthancClient, OrthancUnreachable
from scp.statuses import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
)
from scp.storage_commitment import confirmation as module
from scp.storage_commitment.confirmation import Confirmation
from scp.storage_commitment.transactions import Failures, Reference

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


class Index(OrthancClient):
    """Orthanc identifier → SOP Instance UID and class; attachment UUID → state, "committed" unless told otherwise."""

    def __init__(self, instances: dict[str, tuple[str, str]]) -> None:
        self.instances = instances
        self.states: dict[str, str] = {}
        self.asked: list[str] = []
        self.is_away = False

    def lookup(self, identifier: str) -> list[tuple[str, str]]:
        if self.is_away:
            raise OrthancUnreachable("POST /tools/lookup: away")
        found = [("Instance", one) for one, (uid, _) in self.instances.items() if uid.upper() == identifier.upper()]
        return [*found, ("Study", "S")]

    def resources(self, level: str, ids: Sequence[str], *, metadata: bool = False) -> list[dict[str, Any]]:
        assert level == "Instance"
        assert metadata
        return [
            {"ID": one, "MainDicomTags": {"0008,0018": uid}, "Metadata": {"SopClassUid": sop_class}}
            for one, (uid, sop_class) in self.instances.items()
            if one in ids
        ]

    def dicom_attachment(self, instance_id: str) -> dict[str, Any]:
        return {"Uuid": "file-" + instance_id, "CompressedSize": 10, "CompressedMD5": "m"}

    def committed(self, attachments: Sequence[Mapping[str, Any]]) -> list[str]:
        assert len(attachments) <= 200
        self.asked += [one["Uuid"] for one in attachments]
        return [self.states.get(one["Uuid"], "committed") for one in attachments]


def confirm(index: Index, *references: tuple[str, str]) -> Confirmation:
    return Confirmation(index, [Reference(*pair) for pair in references], {CT, MR}.__contains__)


def outcome(index: Index, *references: tuple[str, str]) -> Failures | None:
    return confirm(index, *references).advance()


def test_an_instance_that_is_in_s3_is_committed() -> None:
    assert outcome(Index({"a": ("1.1", CT)}), (CT, "1.1")) == {}


def test_0112_no_such_instance_and_0122_no_such_class() -> None:
    assert outcome(Index({}), (CT, "1.1")) == {"1.1": NO_SUCH_SOP_INSTANCE}
    assert outcome(Index({}), ("9.9", "1.1")) == {"1.1": SOP_CLASS_NOT_SUPPORTED}


def test_0119_the_instance_is_of_another_class() -> None:
    assert outcome(Index({"a": ("1.1", MR)}), (CT, "1.1")) == {"1.1": CLASS_INSTANCE_CONFLICT}


def test_0110_the_object_in_s3_is_damaged() -> None:
    index = Index({"a": ("1.1", CT)})
    index.states["file-a"] = "corrupted"
    assert outcome(index, (CT, "1.1")) == {"1.1": PROCESSING_FAILURE}


@pytest.mark.parametrize("state", ["pending", "unavailable", "missing"])
def test_what_may_come_right_is_undecided_and_asked_again(state: str) -> None:
    index = Index({"a": ("1.1", CT), "b": ("1.2", CT)})
    index.states["file-a"] = state
    confirmation = confirm(index, (CT, "1.1"), (CT, "1.2"))
    assert confirmation.advance() is None
    index.states.clear()
    index.asked.clear()
    assert confirmation.advance() == {}
    assert index.asked == ["file-a"]  # what is decided is not asked again


def test_0112_an_object_that_stays_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MISSING_PATIENCE", 0.0)
    index = Index({"a": ("1.1", CT)})
    index.states["file-a"] = "missing"
    assert outcome(index, (CT, "1.1")) == {"1.1": NO_SUCH_SOP_INSTANCE}


def test_0213_what_is_still_undecided_at_the_end() -> None:
    index = Index({"a": ("1.1", CT), "b": ("1.2", CT)})
    index.states["file-a"] = "pending"
    confirmation = confirm(index, (CT, "1.1"), (CT, "1.2"), (CT, "1.3"))
    assert confirmation.advance() is None
    assert confirmation.give_up() == {"1.1": RESOURCE_LIMITATION, "1.3": NO_SUCH_SOP_INSTANCE}


def test_of_one_uid_under_several_patients_all_must_be_safe() -> None:
    index = Index({"a": ("1.1", CT), "b": ("1.1", CT)})
    assert outcome(index, (CT, "1.1")) == {}
    index.states["file-b"] = "corrupted"
    assert outcome(index, (CT, "1.1")) == {"1.1": PROCESSING_FAILURE}


def test_a_class_that_the_index_does_not_know_is_read_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index({"a": ("1.1", "")})
    monkeypatch.setattr(index, "instance_tags", lambda _: {"0008,0016": CT})
    assert outcome(index, (CT, "1.1")) == {}
    assert outcome(index, (MR, "1.1")) == {"1.1": CLASS_INSTANCE_CONFLICT}


def test_when_orthanc_is_away_nothing_is_decided() -> None:
    index = Index({"a": ("1.1", CT)})
    index.is_away = True
    confirmation = confirm(index, (CT, "1.1"))
    with pytest.raises(OrthancUnreachable):
        confirmation.advance()
    index.is_away = False
    assert confirmation.advance() == {}


def test_many_references_are_asked_in_batches() -> None:
    index = Index({f"i{number}": (f"1.{number}", CT) for number in range(1000)})
    assert outcome(index, *((CT, f"1.{number}") for number in range(1000))) == {}
    assert len(index.asked) == 1000


def test_a_peer_that_wants_its_association_back_does_not_wait_for_thousands() -> None:
    index = Index({f"i{number}": (f"1.{number}", CT) for number in range(1000)})
    confirmation = confirm(index, *((CT, f"1.{number}") for number in range(1000)))
    assert confirmation.advance(lambda: len(index.asked) >= 300) is None
    assert len(index.asked) == 300
    assert confirmation.advance() == {}
    assert len(index.asked) == 1000


def test_an_acknowledged_instance_that_orthanc_does_not_have_yet_is_undecided() -> None:
    """`Acknowledge` "Received": it is in the journal, so it is not unknown."""
    index = Index({})
    on_its_way = {"1.1"}
    progress = Confirmation(
        index, [Reference(CT, "1.1"), Reference(CT, "1.2")], {CT}.__contains__, on_its_way.__contains__
    )
    assert progress.advance() is None
    index.instances["a"] = ("1.1", CT)
    on_its_way.clear()
    assert progress.advance() == {"1.2": NO_SUCH_SOP_INSTANCE}
