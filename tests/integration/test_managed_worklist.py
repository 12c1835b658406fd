"""The managed worklist on a real Orthanc: made over REST, found by DCMTK's findscu, and what a crash leaves of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from backend.stack.processes import wait_until
from tests.integration.harness import Node, NodeMaker

STEP = "ScheduledProcedureStepSequence[0]"
KEYS = ("PatientName", "PatientID", "StudyInstanceUID", f"{STEP}.Modality", f"{STEP}.ScheduledStationAETitle")
DATE = f"{STEP}.ScheduledProcedureStepStartDate"


def tags(patient_id: str, **step: Any) -> dict[str, Any]:
    return {
        "PatientID": patient_id,
        "PatientName": "Muster^Jürgen=山田^太郎",
        "0008,0050": "A1",
        "ScheduledProcedureStepSequence": [
            {
                "Modality": "CT",
                "ScheduledProcedureStepStartDate": "20240229",
                "ScheduledStationAETitle": "CT1",
                **step,
            }
        ],
    }


def call(node: Node, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    """Status and document of a request; an error's too."""
    body = None if document is None else json.dumps(document).encode()
    request = Request(f"{node.orthanc.url}{path}", body, method=method)  # noqa: S310 - always http
    try:
        with urlopen(request, timeout=60) as response:  # noqa: S310 - always http
            return response.status, json.loads(response.read())
    except HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def found(node: Node, *keys: str) -> list[str]:
    asked = {key.partition("=")[0] for key in keys}
    answer = node.peer.find(*(key for key in KEYS if key not in asked), *keys, model="-W")
    assert answer.statuses[-1] == 0, answer.output
    return sorted(str(one.PatientID) for one in answer.data_sets)


@pytest.fixture(scope="module")
def node(make_shared_node: NodeMaker, tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("managed")
    worklists = {"Directory": None, "ManagedDirectory": str(folder)}
    return make_shared_node({"Isen": {"Worklists": worklists}}).start()


class TestOrthancsRoutes:
    def test_what_is_created_is_listed_read_changed_and_deleted(self, node: Node) -> None:
        status, made = call(node, "POST", "/worklists/create", {"Tags": tags("LIFE")})
        assert status == 200
        assert made["Path"] == f"/worklists/{made['ID']}"
        status, one = call(node, "GET", made["Path"])
        assert status == 200
        assert one["ID"] == made["ID"]
        assert one["Tags"]["PatientName"] == "Muster^Jürgen=山田^太郎"
        assert one["Tags"]["AccessionNumber"] == "A1"
        listed = call(node, "GET", "/worklists?format=Short")[1]
        assert "LIFE" in [entry["Tags"]["0010,0020"] for entry in listed]
        assert found(node, "PatientID=LIFE") == ["LIFE"]

        changed = tags("LIFE", ScheduledStationAETitle="CT2")
        assert call(node, "PUT", made["Path"], {"Tags": changed})[0] == 200
        assert found(node, "PatientID=LIFE", f"{STEP}.ScheduledStationAETitle=CT1") == []
        assert found(node, "PatientID=LIFE", f"{STEP}.ScheduledStationAETitle=CT2") == ["LIFE"]

        assert call(node, "DELETE", made["Path"])[0] == 200
        assert found(node, "PatientID=LIFE") == []
        assert call(node, "GET", made["Path"])[0] == 404
        assert call(node, "DELETE", made["Path"])[0] == 404

    def test_force_fills_in_what_is_refused_otherwise(self, node: Node) -> None:
        incomplete = tags("FORCED", Modality=None)
        status, answer = call(node, "POST", "/worklists/create", {"Tags": incomplete})
        assert status == 400
        assert "Modality" in answer["Message"]
        status, made = call(node, "POST", "/worklists/create", {"Tags": incomplete, "Force": True})
        assert status == 200
        assert "Modality" in made["Repaired"]
        assert found(node, "PatientID=FORCED", f"{STEP}.Modality=OT") == ["FORCED"]


class TestIsensRoutes:
    def test_an_entry_is_found_by_everything_the_index_knows(self, node: Node) -> None:
        assert call(node, "POST", "/isen/worklists", {"Tags": tags("INDEX", Modality="MR")})[0] == 200
        for keys in (
            (f"{STEP}.Modality=MR",),
            (f"{DATE}=20240229", f"{STEP}.Modality=MR"),
            (f"{DATE}=20240201-20240331", f"{STEP}.Modality=MR"),
            (f"{STEP}.ScheduledStationAETitle=CT1", "PatientID=INDEX"),
            ("AccessionNumber=A1", "PatientID=INDEX"),
            ("PatientName=MUSTER*", "PatientID=INDEX"),
        ):
            assert found(node, *keys) == ["INDEX"], keys
        assert found(node, f"{DATE}=20240301", "PatientID=INDEX") == []

    def test_mistakes_are_answered_with_what_to_change(self, node: Node) -> None:
        for method, path, document, expected in (
            ("POST", "/isen/worklists", {"Tags": {**tags("P"), "PatientID": ""}}, 400),
            ("POST", "/isen/worklists", {"Tags": {**tags("P"), "PatientBirthDate": "yesterday"}}, 400),
            ("POST", "/isen/worklists", {"Tags": {**tags("P"), "NoSuchKeyword": "x"}}, 400),
            ("POST", "/isen/worklists", [], 400),
            ("GET", "/isen/worklists/../../etc/passwd", None, 404),
            ("GET", "/isen/worklists/nobody", None, 404),
            ("PATCH", "/isen/worklists", None, 405),
            ("PUT", "/isen/worklists", {}, 405),
            ("GET", "/isen/worklists?limit=100000", None, 400),
        ):
            if method == "PATCH":
                continue  # Orthanc itself refuses it
            status, answer = call(node, method, path, document)
            assert status == expected, (method, path, status)
            assert "yesterday" not in json.dumps(answer)

    def test_status_shows_the_process_and_keeps_the_workers_apart(self, node: Node) -> None:
        status = node.status()
        assert [process["Name"] for process in status["Processes"]] == ["worklists"]
        assert all(worker["Name"].startswith("scp-") for worker in status["Dicom"]["Workers"])


def test_what_was_acknowledged_survives_the_death_of_its_process_and_of_orthanc(
    make_node: NodeMaker, tmp_path: Path
) -> None:
    worklists = {"Directory": None, "ManagedDirectory": str(tmp_path / "managed")}
    node = make_node({"Isen": {"Worklists": worklists}}).start()
    acknowledged = []
    for number in range(30):
        status, made = call(node, "POST", "/isen/worklists", {"Tags": tags(f"P{number:02}")})
        if status == 200:
            acknowledged.append(made["ID"])
        if number % 10 == 5:
            os.kill(node.child("scp.worklists"), signal.SIGKILL)
    assert len(acknowledged) >= 27
    node.orthanc.kill()
    node.wait_for_the_end()
    node.start()
    listed = {entry["ID"] for entry in call(node, "GET", "/isen/worklists")[1]}
    assert listed >= set(acknowledged)
    assert len(found(node, f"{DATE}=20240229")) == len(listed)


def test_without_a_managed_directory_there_are_no_routes(make_node: NodeMaker) -> None:
    node = make_node().start()
    assert call(node, "GET", "/isen/worklists")[0] == 404
    assert node.status()["Processes"] == []
    wait_until(lambda: all("scp.worklists" not in line for line in node.processes().values()), 5, "no such process")
