"""Where an instance came from, in Orthanc's metadata, after its way through our SCP."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.stack.dcmtk import Peer
from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker
from tests.integration.scp_fixtures import LocalOrthanc

NAMES = ("RemoteAET", "CalledAET", "RemoteIP", "Origin")


def metadata(node: Node, level: str, ident: str) -> dict[str, str]:
    answer: dict[str, str] = node.orthanc.get_json(f"/{level}/{ident}/metadata?expand")
    return answer


def can_be_written(node: Node) -> bool:
    """Orthanc 1.12.2 and later."""
    version = node.orthanc.get_json("/system")["Version"]
    return tuple(map(int, version.split("."))) >= (1, 12, 2)


def test_it_is_what_orthancs_own_server_would_have_noted(
    make_node: NodeMaker, thumbnails: list[Path], tmp_path: Path
) -> None:
    node = make_node().start()
    if not can_be_written(node):
        pytest.skip("this Orthanc lets nobody write RemoteAET")
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    instances = node.instances()
    folder = node.folder / "spool" / "origins"
    wait_until(lambda: not list(folder.glob("*.jsonl")), 30, "Orthanc has been told")

    own = LocalOrthanc(tmp_path / "own")
    try:
        assert Peer(own.dicom_port).send(*thumbnails).sent == len(thumbnails)
        for instance in instances:
            ours = metadata(node, "instances", instance)
            theirs = own.request(f"/instances/{instance}/metadata?expand")
            assert {name: ours.get(name) for name in NAMES} == {name: theirs.get(name) for name in NAMES}
        assert {name: ours[name] for name in NAMES} == {
            "RemoteAET": "MODALITY",
            "CalledAET": "ORTHANC",
            "RemoteIP": "127.0.0.1",
            "Origin": "DicomProtocol",
        }
        (series,) = node.orthanc.get_json("/series")
        assert metadata(node, "series", series)["RemoteAET"] == "MODALITY"
    finally:
        own.stop()


def test_what_was_posted_over_rest_keeps_its_origin(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    """Also when a modality sends it again: it is already there."""
    node = make_node().start()
    node.orthanc.post("/instances", thumbnails[0].read_bytes())
    (instance,) = node.instances()
    before = metadata(node, "instances", instance)
    assert before["Origin"] == "RestApi"
    assert node.peer.send(*thumbnails[:2]).sent == 2
    folder = node.folder / "spool" / "origins"
    wait_until(lambda: not list(folder.glob("*.jsonl")), 30, "Orthanc has been told, or cannot be")
    assert metadata(node, "instances", instance) == before


def test_a_killed_node_has_lost_no_origin(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    node = make_node().start()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    node.orthanc.kill()
    node.wait_for_the_end()
    folder = node.folder / "spool" / "origins"
    lines = sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))
    assert lines == len(thumbnails)
    node.start()
    wait_until(lambda: not list(folder.glob("*.jsonl")), 30, "Orthanc has been told, or cannot be")
    expected = "MODALITY" if can_be_written(node) else ""
    assert {metadata(node, "instances", one)["RemoteAET"] for one in node.instances()} == {expected}


def test_an_orthanc_that_cannot_says_so_once_and_nothing_piles_up(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    node = make_node({"Isen": {"Dicom": {"Processes": 1}}}).start()
    if can_be_written(node):
        pytest.skip("this Orthanc can")
    folder = node.folder / "spool" / "origins"
    for path in thumbnails[:3]:
        assert node.peer.send(path).sent == 1
        wait_until(lambda: not list(folder.glob("*.jsonl")), 10, "nothing waits to be told")
    assert node.orthanc.log.read_text().count("origins_not_supported") == 1
