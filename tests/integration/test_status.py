"""`GET /isen/status` and the metrics: what an operator sees."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.error import HTTPError

import pytest

from backend.stack.processes import wait_until
from tests.integration.harness import Node


def test_the_status_names_what_there_is_and_no_secret(node: Node, ten: list[Path]) -> None:
    node.peer.send(*ten)
    node.wait_until_uploaded()
    wait_until(
        lambda: node.status()["Storage"]["Counters"]["uploads"] == len(node.keys()), 5, "the uploads are reported"
    )
    text = node.orthanc.get("/isen/status").decode()
    assert "made-up-and-not-verified" not in text
    status = node.status()

    storage = status["Storage"]
    assert storage["Durability"] == "Spool"
    assert storage["ObjectStore"]["State"] == "Available"
    assert storage["ObjectStore"]["Bucket"] == node.bucket
    assert storage["Spool"]["Directory"] == str(node.folder / "spool")
    assert (storage["Spool"]["UsedBytes"], storage["Spool"]["PendingCount"]) == (0, 0)
    assert storage["Cache"]["Bytes"] >= 10 * 512 * 512 * 2
    assert storage["Transfer"]["Pid"] == node.child("backend.transfer")

    dicom = status["Dicom"]
    assert dicom["AETitle"] == "ORTHANC"
    assert dicom["Port"] == node.orthanc.dicom_port
    assert {worker["Pid"] for worker in dicom["Workers"]} == {
        pid for pid, command in node.processes().items() if "-m scp" in command
    }
    assert all(worker["Ready"] for worker in dicom["Workers"])


def test_only_get_is_answered(node: Node) -> None:
    with pytest.raises(HTTPError) as refused:
        node.orthanc.post("/isen/status", b"{}")
    assert refused.value.code == 405


def test_the_metrics_are_orthancs_with_our_prefix(node: Node) -> None:
    def metrics() -> dict[str, float]:
        text = node.orthanc.get("/tools/metrics-prometheus").decode()
        return {name: float(value) for name, value in re.findall(r"^(isen_\w+) ([0-9.e+]+)", text, re.MULTILINE)}

    wait_until(metrics, 10, "metrics are published")
    published = metrics()
    assert published["isen_object_store_available"] == 1
    assert published["isen_scp_workers_ready"] >= 1
    assert published["isen_spool_pending_count"] == 0


def test_orthanc_knows_that_its_storage_is_ours(node: Node) -> None:
    assert node.orthanc.get_json("/system")["StorageAreaPlugin"]
