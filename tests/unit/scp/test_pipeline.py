"""Several GETs on one connection: whatever the answers look like, they are the answers or an error."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from config.settings import OrthancSettings
from scp.administration import Administration
from scp.orthanc_client import OrthancRefused, OrthancUnreachable
from scp.pipeline import Pipeline
from tests.fakes.certificates import make_certificates

Serve = Callable[[socket.socket], None]


def answer(body: bytes, status: str = "200 OK", name: str = "Content-Length") -> bytes:
    return f"HTTP/1.1 {status}\r\nConnection: keep-alive\r\n{name}: {len(body)}\r\nX: y\r\n\r\n".encode() + body


class Server:
    """Hands each connection to the next of `turns`; `requests` is what it was asked."""

    def __init__(self, *turns: bytes, pieces: int = 1 << 20, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{self._listener.getsockname()[1]}/orthanc"
        self.settings = OrthancSettings(url=f"{'https' if tls else 'http'}://{address}")
        self._tls = tls
        self.requests: list[bytes] = []
        self._turns, self._pieces = turns, pieces
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        for content in self._turns:
            connection, _ = self._listener.accept()
            with suppress(OSError):  # the client has gone
                self._answer(self._tls.wrap_socket(connection, server_side=True) if self._tls else connection, content)

    def _answer(self, connection: socket.socket, content: bytes) -> None:
        with connection:
            request = b""
            while request.count(b"\r\n\r\n") < 2:
                request += connection.recv(4096)
            self.requests.append(request)
            for start in range(0, len(content), self._pieces):
                connection.sendall(content[start : start + self._pieces])


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Server, Pipeline]]]:
    made: list[Server] = []

    def start(*turns: bytes, pieces: int = 1 << 20) -> tuple[Server, Pipeline]:
        made.append(Server(*turns, pieces=pieces))
        return made[-1], Pipeline(made[-1].settings, "Bearer secret", 5)

    yield start
    for server in made:
        server.close()


Start = Callable[..., tuple[Server, Pipeline]]


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
def test_answers_come_in_order_however_they_are_cut(serve: Start, pieces: int) -> None:
    server, pipeline = serve(answer(b"one") + answer(b"", name="content-length"), pieces=pieces)
    with closing(pipeline):
        assert pipeline.get("/a", "/b?x") == [b"one", b""]
    (request,) = server.requests
    assert request.startswith(b"GET /orthanc/a HTTP/1.1\r\nHost: 127.0.0.1:")
    assert request.count(b"Authorization: Bearer secret\r\n") == 2
    assert b"GET /orthanc/b?x HTTP/1.1\r\n" in request


def test_a_connection_that_was_closed_while_idle_is_opened_anew(serve: Start) -> None:
    both = answer(b"1") + answer(b"2")
    server, pipeline = serve(both, both)
    with closing(pipeline):
        assert pipeline.get("/a", "/b") == pipeline.get("/a", "/b") == [b"1", b"2"]
    assert len(server.requests) == 2


def test_an_error_of_orthancs_is_told(serve: Start) -> None:
    _, pipeline = serve(answer(b"1") + answer(b"no", "401 Unauthorized"))
    with pytest.raises(OrthancRefused, match="HTTP 401"):
        pipeline.get("/a", "/b")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        answer(b"1") + answer(b"22")[:-1],
        b"x" * 50_000,
    ],
    ids=["nothing", "another protocol", "no length", "too long", "cut short", "no end"],
)
def test_what_is_no_answer_is_an_error(serve: Start, content: bytes) -> None:
    _, pipeline = serve(content)
    with pytest.raises(OrthancUnreachable):
        pipeline.get("/a", "/b")


def test_nobody_listens() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(OrthancUnreachable, match="ConnectionRefusedError"):
        Pipeline(OrthancSettings(url=url), "", 5).get("/a")


def test_tls_by_an_authority_of_its_own_whatever_host_the_certificate_names(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    with closing(Server(*[answer(b"1") + answer(b"2")] * 2, tls=context)) as server:
        trusting = server.settings.model_copy(update={"ca_certificates": files.authority})
        assert Pipeline(trusting, "", 5).get("/a", "/b") == [b"1", b"2"]
        with pytest.raises(OrthancUnreachable, match="SSLCertVerificationError"):
            Pipeline(server.settings, "", 5).get("/a", "/b")


def test_administration_reads_orthancs_answers(serve: Start) -> None:
    modality = b'{"ct": {"AET": "CT1", "Host": "192.0.2.1", "Port": 104, "AllowFind": false}}'
    bodies = (modality, b"Latin2\n", b'["1.2.840.10008.1.2"]', b"1")
    content = b"".join(map(answer, bodies))
    _, pipeline = serve(content, content)
    administration = Administration(pipeline)
    values = administration()
    assert [(one.name, one.ae_title, one.allow_find) for one in values.modalities] == [("ct", "CT1", False)]
    assert (values.default_encoding, values.accepted_transfer_syntaxes) == ("Latin2", ("1.2.840.10008.1.2",))
    assert values.unknown_sop_class_accepted
    assert administration() is values, "the same answer is not read twice"
