"""Orthanc's own options decide who may do what: DicomModalities, DicomAlwaysAllow*, DicomCheckCalledAet, and so on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.stack.dcmtk import Peer
from tests.integration.harness import Node, NodeMaker

STRICT = {
    "DicomCheckCalledAet": True,
    "DicomAlwaysAllowEcho": False,
    "DicomAlwaysAllowStore": False,
    "DicomAlwaysAllowFind": False,
    "DicomAlwaysAllowFindWorklist": False,
    "DicomAlwaysAllowGet": False,
    "DicomAlwaysAllowMove": False,
    "DicomModalities": {
        "anything": ["ANYTHING", "127.0.0.1", 11112],
        "looks": {"AET": "LOOKS", "Host": "127.0.0.1", "Port": 11112, "AllowStore": False, "AllowMove": False},
        "stores": {
            "AET": "STORES",
            "Host": "127.0.0.1",
            "Port": 11112,
            "AllowFind": False,
            "AllowFindWorklist": False,
            "AllowEcho": False,
        },
    },
}


@pytest.fixture(scope="module")
def strict(make_shared_node: NodeMaker) -> Node:
    """A node that lets nobody in who is not configured. (`start` would ask it for an echo as a stranger.)"""
    node = make_shared_node(STRICT)
    node.peer = replace(node.peer, calling="ANYTHING")
    return node.start()


def calling(node: Node, ae_title: str) -> Peer:
    return replace(node.peer, calling=ae_title)


def test_an_unknown_calling_ae_title_is_rejected(strict: Node) -> None:
    answer = calling(strict, "STRANGER").echo()
    assert answer.exit_code != 0
    assert "Calling AE Title Not Recognized" in answer.output


def test_a_wrong_called_ae_title_is_rejected(strict: Node) -> None:
    answer = replace(strict.peer, called="SOMEBODY").echo()
    assert answer.exit_code != 0
    assert "Called AE Title Not Recognized" in answer.output


def test_ae_titles_are_compared_without_case_unless_asked(strict: Node) -> None:
    assert replace(strict.peer, called="orthanc", calling="anything").echo().exit_code == 0


def test_a_known_modality_may_do_everything_by_default(strict: Node, thumbnails: list[Path]) -> None:
    peer = calling(strict, "ANYTHING")
    assert peer.echo().exit_code == 0
    assert peer.store(thumbnails[0]).statuses == [0]
    assert peer.find("QueryRetrieveLevel=STUDY", "StudyInstanceUID").statuses[-1] == 0


def test_a_modality_without_allow_store_stores_nothing(strict: Node, thumbnails: list[Path]) -> None:
    before = len(strict.instances())
    answer = calling(strict, "LOOKS").store(thumbnails[1])
    assert 0 not in answer.statuses
    assert len(strict.instances()) == before
    assert calling(strict, "LOOKS").find("QueryRetrieveLevel=STUDY", "StudyInstanceUID").statuses[-1] == 0


@pytest.mark.parametrize("model", ["-S", "-W"])
def test_a_modality_without_allow_find_learns_nothing(strict: Node, thumbnails: list[Path], model: str) -> None:
    assert calling(strict, "STORES").store(thumbnails[2]).statuses == [0]
    keys = ("QueryRetrieveLevel=STUDY", "StudyInstanceUID") if model == "-S" else ("PatientName",)
    answer = calling(strict, "STORES").find(*keys, model=model)
    assert 0 not in answer.statuses
    assert answer.data_sets == []


def test_a_modality_without_allow_echo_gets_none(strict: Node) -> None:
    assert calling(strict, "STORES").echo().exit_code != 0


def test_without_always_allow_find_a_stranger_may_store_but_not_find(
    make_node: NodeMaker, thumbnails: list[Path]
) -> None:
    node = make_node({"DicomAlwaysAllowFind": False}).start()
    stranger = calling(node, "STRANGER")
    assert stranger.store(thumbnails[0]).statuses == [0]
    answer = stranger.find("QueryRetrieveLevel=STUDY", "StudyInstanceUID")
    assert 0 not in answer.statuses
    assert answer.data_sets == []


def test_the_host_of_a_modality_is_checked_if_asked(make_node: NodeMaker) -> None:
    modalities = {"here": ["HERE", "127.0.0.1", 11112], "elsewhere": ["ELSEWHERE", "192.0.2.1", 11112]}
    node = make_node({**STRICT, "DicomCheckModalityHost": True, "DicomModalities": modalities})
    node.peer = calling(node, "HERE")
    node.start()
    assert calling(node, "HERE").echo().exit_code == 0
    assert calling(node, "ELSEWHERE").echo().exit_code != 0
