"""What happens while S3 is away, with either durability."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError

import pytest

from backend.stack.processes import wait_until
from scp.statuses import OUT_OF_RESOURCES
from tests.integration.harness import NodeMaker, sop_instance_uid


def uids(paths: list[Path]) -> set[str]:
    return {sop_instance_uid(path.read_bytes()) for path in paths}


@pytest.mark.parametrize("how", ["refuse", "blackhole"])
def test_with_spool_stores_go_on_without_s3_and_nothing_is_lost_when_it_returns(
    make_node: NodeMaker, ten: list[Path], how: str
) -> None:
    node = make_node({"Isen": {"Storage": {"ConnectTimeout": 1, "RequestTimeout": 2}}}, gated=True).start()
    assert node.gate
    getattr(node.gate, how)()
    assert node.peer.send(*ten).sent == 10
    assert len(node.instances()) == 10
    node.wait_for_object_store("Unreachable")
    owed = len(node.pending())
    assert owed >= 10
    wait_until(lambda: node.spool_status()["PendingCount"] == owed, 5, "the status says what is owed")
    assert node.images_in_bucket() == {}

    node.gate.open()
    node.wait_until_uploaded()
    node.wait_for_object_store("Available")
    assert node.images_in_bucket().keys() == uids(ten)


def test_a_node_starts_without_s3_and_uploads_when_it_returns(make_node: NodeMaker, ten: list[Path]) -> None:
    node = make_node({"Isen": {"Storage": {"ConnectTimeout": 1}}}, gated=True)
    assert node.gate
    node.gate.refuse()
    node.start()
    assert node.peer.send(*ten).sent == 10

    node.gate.open()
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(ten)


def test_with_object_store_senders_are_refused_and_nothing_half_stored_remains(
    make_node: NodeMaker, ten: list[Path]
) -> None:
    storage = {"Durability": "ObjectStore", "ObjectStoreTimeout": 3, "ConnectTimeout": 1, "RequestTimeout": 2}
    node = make_node({"Isen": {"Storage": storage}}, gated=True).start()
    assert node.gate
    node.gate.refuse()
    assert set(node.peer.store(ten[0]).statuses) == {OUT_OF_RESOURCES}
    assert node.instances() == []
    assert node.pending() == node.incoming() == []
    assert node.keys() == []

    # and it heals by itself
    node.gate.open()
    node.wait_for_object_store("Available")
    assert node.peer.send(*ten).sent == 10
    assert node.images_in_bucket().keys() == uids(ten)
    assert not [name for name in node.pending() if name.endswith(".dcm")]
    node.wait_until_uploaded()  # what can be made again from the images
    assert node.pending() == node.incoming() == []


def test_a_late_answer_of_s3_does_not_bring_back_what_the_sender_was_refused(
    make_node: NodeMaker, ten: list[Path]
) -> None:
    """The upload may reach S3 after its sender has given up; the object must not stay."""
    storage = {"Durability": "ObjectStore", "ObjectStoreTimeout": 2, "RequestTimeout": 30}
    node = make_node({"Isen": {"Storage": storage}}, gated=True).start()
    assert node.gate
    node.gate.blackhole()
    assert set(node.peer.store(ten[0]).statuses) == {OUT_OF_RESOURCES}
    node.gate.open()
    node.wait_for_object_store("Available")
    wait_until(lambda: node.keys() == [], 20, "the object of the refused image is gone")
    assert node.instances() == []
    assert node.pending() == node.incoming() == []


def test_a_full_spool_refuses_and_heals_when_s3_has_taken_some(make_node: NodeMaker, ten: list[Path]) -> None:
    storage = {"MaximumSpoolSizeMB": 2, "ConnectTimeout": 1}
    node = make_node({"Isen": {"Storage": storage}}, gated=True).start()
    assert node.gate
    node.gate.refuse()
    answer = node.peer.store(*ten, options=["-nh"])  # go on after a refusal
    stored = answer.statuses.count(0)
    assert answer.statuses == [0] * stored + [OUT_OF_RESOURCES] * (10 - stored)
    assert 0 < stored < 10
    assert len(node.instances()) == stored

    node.gate.open()
    for path in ten:
        wait_until(lambda: node.spool_status()["UsedBytes"] == 0, 30, "the spool has room again")
        assert node.peer.send(path).sent == 1
    node.wait_until_uploaded()
    assert node.images_in_bucket().keys() == uids(ten)


def test_an_image_that_is_only_in_s3_cannot_be_read_while_s3_is_away(make_node: NodeMaker, ten: list[Path]) -> None:
    storage = {"ConnectTimeout": 1, "RequestTimeout": 2}
    node = make_node({"Isen": {"Storage": storage}}, gated=True).start()
    node.peer.send(ten[0])
    node.wait_until_uploaded()
    node.stop()
    node.set_aside("cache")
    node.start()
    assert node.gate
    node.gate.refuse()
    (instance,) = node.instances()
    with pytest.raises(HTTPError) as refused:
        node.file(instance)
    assert refused.value.code == 500
    assert "error=unreachable" in node.orthanc.process.output()

    node.gate.open()
    node.wait_for_object_store("Available")
    assert sop_instance_uid(node.file(instance)) in uids(ten)
