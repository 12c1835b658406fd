"""`/isen/origins`: only for our workers, and only where Orthanc lets metadata be written."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from backend.plugin.origin_routes import OriginRoutes

TOKEN = "Bearer 4b1d"
ORIGIN = {"Instance": "i", "Series": "s", "RemoteAET": "CT1", "CalledAET": "ISEN", "RemoteIP": "192.0.2.7"}


class OrthancError(Exception):
    """As `orthanc.OrthancException`."""


class Host:
    """An Orthanc with metadata: uri → value."""

    OrthancException = OrthancError

    def __init__(self, *, writable: bool = True) -> None:
        self.metadata: dict[str, bytes] = {"/instances/i/metadata": b"[]", "/series/s/metadata/RemoteAET": b""}
        self.writable = writable
        self.written = 0

    def RestApiPut(self, uri: str, value: bytes) -> bytes:  # noqa: N802 -- Orthanc's name
        self.written += 1
        if not self.writable or uri.rsplit("/", 2)[0] not in {"/instances/i", "/series/s"}:
            raise OrthancError(17, "Unknown resource")
        self.metadata[uri] = value
        return b""

    def RestApiGet(self, uri: str) -> bytes:  # noqa: N802 -- Orthanc's name
        if uri not in self.metadata:
            raise OrthancError(17, "Unknown resource")
        return self.metadata[uri]


class Output:
    """What was answered."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = None

    def AnswerBuffer(self, body: str, _mime: str) -> None:  # noqa: N802 -- Orthanc's name
        self.body = json.loads(body)

    def SendHttpStatusCode(self, status: int) -> None:  # noqa: N802 -- Orthanc's name
        self.status = status

    def SendMethodNotAllowed(self, _allowed: str) -> None:  # noqa: N802 -- Orthanc's name
        self.status = 405


def ask(routes: OriginRoutes, *origins: object, token: str = TOKEN, method: str = "POST") -> Output:
    output = Output()
    headers = {"authorization": token} if token else {}
    routes.answer(output, "/isen/origins", method=method, headers=headers, body=json.dumps(origins).encode())
    return output


def test_origins_are_written_as_orthancs_own_server_writes_them() -> None:
    host = Host()
    assert ask(OriginRoutes(host, TOKEN), ORIGIN).body == {"Supported": True}
    assert (
        host.metadata.items()
        >= {
            "/instances/i/metadata/RemoteAET": b"CT1",
            "/instances/i/metadata/CalledAET": b"ISEN",
            "/instances/i/metadata/RemoteIP": b"192.0.2.7",
            "/instances/i/metadata/Origin": b"DicomProtocol",
            "/series/s/metadata/RemoteAET": b"CT1",
        }.items()
    )


def test_a_series_keeps_the_ae_title_its_first_instance_came_from() -> None:
    host = Host()
    host.metadata["/series/s/metadata/RemoteAET"] = b"FIRST"
    ask(OriginRoutes(host, TOKEN), ORIGIN)
    assert host.metadata["/series/s/metadata/RemoteAET"] == b"FIRST"


def test_an_instance_that_was_removed_meanwhile_says_nothing_about_the_others() -> None:
    host = Host()
    assert ask(OriginRoutes(host, TOKEN), {**ORIGIN, "Instance": "gone"}, ORIGIN).body == {"Supported": True}
    assert host.metadata["/instances/i/metadata/RemoteAET"] == b"CT1"


def test_an_orthanc_that_refuses_is_asked_once() -> None:
    host = Host(writable=False)
    routes = OriginRoutes(host, TOKEN)
    assert ask(routes, ORIGIN, ORIGIN).body == {"Supported": False}
    assert ask(routes, ORIGIN).body == {"Supported": False}
    assert host.written == 1


def test_with_checked_revisions_what_exists_stays_and_is_counted() -> None:
    """CheckRevisions: the first try may meet that as well, so an Orthanc that could once is not given up."""
    host = Host()
    routes = OriginRoutes(host, TOKEN)
    ask(routes, ORIGIN)
    host.writable = False
    assert ask(routes, ORIGIN).body == {"Supported": True}
    assert routes.counters == {"origins": 1, "origins_refused": 1}


@pytest.mark.parametrize("token", ["", "Bearer 4b1e", "4b1d", "Bearer é"])
def test_nobody_else_may_claim_an_origin(token: str) -> None:
    host = Host()
    assert ask(OriginRoutes(host, TOKEN), ORIGIN, token=token).status == 403
    assert host.written == 0


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def test_a_front_ends_user_may_once_orthanc_has_let_it_in() -> None:
    host = Host()
    routes = OriginRoutes(host, TOKEN, ["front"])
    assert ask(routes, ORIGIN, token=basic("front:any:thing")).status == 200
    assert host.metadata["/instances/i/metadata/RemoteAET"] == b"CT1"


@pytest.mark.parametrize("token", [basic("doctor:x"), basic(":"), "Basic !", "Basic ", "Bearer front", "front"])
def test_another_user_may_not(token: str) -> None:
    host = Host()
    assert ask(OriginRoutes(host, TOKEN, ["front"]), ORIGIN, token=token).status == 403
    assert host.written == 0


def test_bad_requests() -> None:
    host = Host()
    routes = OriginRoutes(host, TOKEN)
    assert ask(routes, *[ORIGIN] * 201).status == 400
    deep = Output()
    routes.answer(deep, "", method="POST", headers={"authorization": TOKEN}, body=b"[" * 100_000)
    assert deep.status == 400
    assert host.written == 0
    assert ask(routes, {"Instance": "i"}).status == 400
    assert ask(routes, 7).status == 400
    assert ask(routes, method="GET").status == 405
