"""`isen status`, against a server that answers what `/isen/status` answers."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli.__main__ import app
from backend.stack.ports import free_port

HEALTHY: dict[str, Any] = {
    "Storage": {
        "Durability": "Spool",
        "Spool": {
            "UsedBytes": 1048576,
            "MaximumBytes": 10737418240,
            "PendingCount": 2,
            "OldestPendingSeconds": 3.4,
            "TombstoneCount": 0,
            "QuarantineCount": 0,
        },
        "Cache": {"Bytes": 0, "MaximumBytes": 1048576},
        "ObjectStore": {"State": "Available", "Bucket": "dicom", "Endpoint": "http://minio:9000"},
        "Transfer": {"Pid": 10, "Ready": True, "Restarts": 0, "ReportAgeSeconds": 0.4},
    },
    "Dicom": {
        "AETitle": "ORTHANC",
        "Port": 4242,
        "Associations": 3,
        "MaximumAssociations": 200,
        "Workers": [{"Name": "scp-1", "Pid": 11, "Ready": True, "Restarts": 2}],
    },
}

Serve = Callable[[int, Any], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers every request with one status and document; returns its address."""
    servers: list[HTTPServer] = []

    def start(code: int, document: Any) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append((self.path, self.headers.get("Authorization")))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(document if isinstance(document, bytes) else json.dumps(document).encode())

            def log_message(self, *_: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    seen.clear()
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


seen: list[tuple[str, str | None]] = []


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["status", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_healthy_isen(serve: Serve) -> None:
    code, output = run("--url", serve(200, HEALTHY))
    assert code == 0
    assert seen == [("/isen/status", None)]
    for expected in (
        "Available",
        "dicom at http://minio:9000",
        "1.0 MB of 10240.0 MB",
        "2, the oldest for 3 s",
        "3 of 200",
        "ORTHANC on port 4242",
        "ready (process 11), restarted 2 times",
    ):
        assert expected in output


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("Storage.ObjectStore.State", "Unreachable", "Unreachable"),
        ("Storage.Spool.QuarantineCount", 1, "1"),
        ("Storage.Spool.UsedBytes", 10737418240, "10240.0 MB of 10240.0 MB"),
        ("Storage.Transfer.Ready", False, "not ready"),
        ("Storage.Transfer.ReportAgeSeconds", 12.3, "silent for 12 s"),
        ("Dicom.Workers.0.Ready", False, "not ready"),
    ],
)
def test_what_does_not_work_makes_it_fail(serve: Serve, path: str, value: Any, expected: str) -> None:
    document = json.loads(json.dumps(HEALTHY))
    place = document
    *parents, name = path.split(".")
    for parent in parents:
        place = place[int(parent)] if parent.isdecimal() else place[parent]
    place[name] = value
    code, output = run("--url", serve(200, document))
    assert code == 1
    assert expected in output


def test_without_a_dicom_server_and_before_the_first_report(serve: Serve) -> None:
    storage = {"Spool": {"PendingCount": None}, "ObjectStore": {"State": "Unknown"}, "Transfer": {}}
    code, output = run("--url", serve(200, {"Storage": storage, "Dicom": None}))
    assert code == 1
    assert "unknown" in output
    assert "switched off" in output


def test_json_is_passed_on(serve: Serve) -> None:
    code, output = run("--url", serve(200, HEALTHY), "--json")
    assert code == 0
    assert json.loads(output) == HEALTHY


def test_credentials_go_into_a_header(serve: Serve) -> None:
    url = serve(200, HEALTHY).replace("http://", "http://alice:p%40ss@")
    code, output = run("--url", url)
    assert code == 0
    assert seen == [("/isen/status", "Basic " + base64.b64encode(b"alice:p@ss").decode())]
    assert "p%40ss" not in output


@pytest.mark.parametrize(
    ("code", "document", "sentence"),
    [
        (401, {}, "put the credentials into the address"),
        (404, {}, "runs without Isen"),
        (500, {}, "see Orthanc's log"),
        (200, b"<html>", "cannot be read"),
        (200, ["x"], "is not Isen's status"),
    ],
)
def test_another_answer_is_explained(serve: Serve, code: int, document: Any, sentence: str) -> None:
    exit_code, output = run("--url", serve(code, document).replace("http://", "http://alice:hidden@"))
    assert exit_code == 1
    assert sentence in output
    assert "hidden" not in output


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "file:///etc/passwd", "orthanc"])
def test_no_orthanc_is_explained(url: str) -> None:
    exit_code, output = run("--url", url.format(port=free_port()))
    assert exit_code == 1
    assert "address" in output
