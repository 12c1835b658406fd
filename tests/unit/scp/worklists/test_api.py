"""The REST API of the managed worklist, without the HTTP."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from scp.worklists import api
from scp.worklists.api import Answer, Api, Request
from scp.worklists.store import WorklistStore
from scp.worklists.tags import FORMATS

TAGS = {
    "PatientName": "Secret^Anna",
    "PatientID": "P1",
    "ScheduledProcedureStepSequence": [{"Modality": "CT", "ScheduledProcedureStepStartDate": "20240229"}],
}


class Client:
    def __init__(self, folder: Path) -> None:
        self.store = WorklistStore(folder)
        self._api = Api(self.store, "NOBODY")

    def call(self, method: str, path: str, body: Any = None, **arguments: str) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer = self._api.answer(Request(method, path, arguments, content))
        json.dumps(answer.document)
        return answer


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


@pytest.mark.parametrize(
    ("create", "root"), [("/isen/worklists", "/isen/worklists"), ("/worklists/create", "/worklists")]
)
def test_what_is_created_has_a_path_below_the_route_it_came_by(client: Client, create: str, root: str) -> None:
    answer = client.call("POST", create, {"Tags": TAGS})
    assert answer.status == 200
    assert answer.document["Path"] == f"{root}/{answer.document['ID']}"
    assert "ScheduledStationAETitle" in answer.document["Repaired"]
    assert client.call("GET", answer.document["Path"]).document["Tags"]["PatientID"] == "P1"


def test_put_makes_an_entry_that_is_not_there_and_forces(client: Client) -> None:
    path = f"/worklists/{uuid4()}"
    tags = {**TAGS, "ScheduledProcedureStepSequence": [{}]}
    assert client.call("PUT", path, {"Tags": tags, "Force": False}).status == 400
    answer = client.call("PUT", path, {"Tags": tags})
    assert answer.document["Path"] == path
    assert "Modality" in answer.document["Repaired"]
    assert client.call("PUT", path, {"Tags": {**TAGS, "PatientID": "P2"}}).status == 200
    assert [one["Tags"]["PatientID"] for one in client.call("GET", "/worklists").document] == ["P2"]


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_read_in_any_format_but_the_full_one_can_be_put_back(client: Client, form: str) -> None:
    path = client.call("POST", "/isen/worklists", {"Tags": TAGS}).document["Path"]
    tags = client.call("GET", path, format=form).document["Tags"]
    assert (client.call("PUT", path, {"Tags": tags}).status == 200) is (form != "Full")


def test_long_lists_are_answered_in_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAXIMUM_PAGE", 3)
    made = [client.call("POST", "/isen/worklists", {"Tags": TAGS}).document["ID"] for _ in range(5)]
    refused = client.call("GET", "/isen/worklists")
    assert refused.status == 400  # rather than to leave entries out in silence
    assert "since and limit" in refused.document["Message"]
    pages = [client.call("GET", "/isen/worklists", since=since, limit="3").document for since in ("0", "3")]
    assert [one["ID"] for page in pages for one in page] == made
    assert client.call("GET", "/isen/worklists", since="2").status == 200


UNKNOWN = "5eabc5d9-1a4a-4690-b072-55bb797f2e8e"


@pytest.mark.parametrize(
    ("line", "body", "arguments", "status"),
    [
        ("GET /isen/worklists", None, {"limit": "-1"}, 400),
        ("GET /isen/worklists", None, {"since": "x"}, 400),
        ("GET /isen/worklists", None, {"format": "XML"}, 400),
        ("GET /isen/worklists/..", None, {}, 404),
        (f"GET /isen/worklists/{UNKNOWN}", None, {}, 404),
        (f"GET /isen/worklists/{UNKNOWN.upper()}", None, {}, 404),
        (f"DELETE /isen/worklists/{UNKNOWN}", None, {}, 404),
        ("GET /isen/other", None, {}, 404),
        ("POST /worklists", {"Tags": TAGS}, {}, 405),
        ("GET /worklists/create", None, {}, 405),
        ("DELETE /isen/worklists", None, {}, 405),
        ("POST /isen/worklists", b"", {}, 400),
        ("POST /isen/worklists", b"\xff\xfe", {}, 400),
        ("POST /isen/worklists", b"[" * 100_000, {}, 400),
        ("POST /isen/worklists", {"Tags": []}, {}, 400),
        ("POST /isen/worklists", {"Tags": TAGS, "Force": "yes"}, {}, 400),
        ("PUT /isen/worklists/not-a-uuid", {"Tags": TAGS}, {}, 404),
    ],
)
def test_mistakes_have_their_status(
    client: Client, line: str, body: Any, arguments: dict[str, str], status: int
) -> None:
    answer = client.call(*line.split(" "), body, **arguments)
    assert answer.status == status
    assert answer.document["HttpStatus"] == status
    assert client.store.count() == 0


def test_a_disk_that_takes_nothing_is_503_and_names_no_patient(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with WorklistStore(tmp_path).transaction():
        client.store._connection.execute("PRAGMA busy_timeout = 50")
        answer = client.call("POST", "/isen/worklists", {"Tags": TAGS})
    assert answer.status == 503
    assert "Secret" not in caplog.text + str(answer.document)


def test_a_failure_nobody_thought_of_is_500_and_names_no_patient(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Secret^Anna")

    monkeypatch.setattr(api, "make_entry", fail)
    with caplog.at_level(logging.DEBUG):
        answer = client.call("POST", "/isen/worklists", {"Tags": TAGS})
    assert answer.status == 500
    assert "Secret" not in caplog.text + str(answer.document)
