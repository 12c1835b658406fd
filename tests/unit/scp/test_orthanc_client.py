"""The client of Orthanc's REST API against a small HTTP server that behaves, misbehaves and disappears."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from config.settings import OrthancSettings
from scp.orthanc_client import (
    MEMORY_LIMIT,
    OrthancClient,
    OrthancRefused,
    OrthancUnreachable,
    ResourceMissing,
    modality_of,
)

ID = "00000000-11111111-22222222-33333333-44444444"


class Server:
    """Answers each request by `answer(method, path, headers, body) -> (status, body)`; None closes the connection."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections: set[tuple[str, int]] = set()
        self.no_delay = False
        self.answer: Callable[[str, str, bytes], tuple[int, bytes] | None] = lambda _method, _path, _body: (200, b"{}")
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.seen.append((self.command, self.path, dict(self.headers), body))
                server.connections.add(self.client_address)
                answer = server.answer(self.command, self.path, body)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            do_GET = do_POST = handle_any  # noqa: N815 - names of the standard library

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> OrthancClient:
    return OrthancClient(OrthancSettings(url=server.url), "Bearer token")


def test_requests_carry_the_token_and_share_a_kept_alive_connection(server: Server, client: OrthancClient) -> None:
    for _ in range(3):
        client.system()
    assert {headers["Authorization"] for _, _, headers, _ in server.seen} == {"Bearer token"}
    assert len(server.connections) == 1


def test_a_worker_takes_no_more_of_orthancs_http_threads_than_its_share(server: Server) -> None:
    client = OrthancClient(OrthancSettings(url=server.url, http_threads_count=20), workers=4)
    at_work, most = [0], [0]
    together = threading.Condition()

    def answer(*_: object) -> tuple[int, bytes]:
        with together:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            together.wait(0.05)
            at_work[0] -= 1
        return 200, b"{}"

    server.answer = answer
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: client.system(), range(24)))
    assert most[0] == 4
    assert len(server.connections) == 4


def test_a_path_before_the_api_is_kept(server: Server) -> None:
    OrthancClient(OrthancSettings(url=f"{server.url}/orthanc/")).system()
    assert server.seen[0][1] == "/orthanc/system"


def test_an_instance_is_posted_with_its_length_and_without_chunks(server: Server, client: OrthancClient) -> None:
    server.answer = lambda *_: (200, json.dumps({"ID": ID, "Status": "AlreadyStored"}).encode())
    stored = client.post_instance(lambda: (b"head", b"", b"data"), 8)
    assert (stored.status, stored.orthanc_id) == ("AlreadyStored", ID)
    method, path, headers, body = server.seen[0]
    assert (method, path, body) == ("POST", "/instances", b"headdata")
    assert headers["Content-Length"] == "8"
    assert "Transfer-Encoding" not in headers


def test_a_request_on_a_connection_that_orthanc_has_closed_is_sent_again(server: Server, client: OrthancClient) -> None:
    client.system()
    answers: list[tuple[int, bytes] | None] = [None, (200, json.dumps({"ID": ID, "Status": "Success"}).encode())]
    server.answer = lambda *_: answers.pop(0)
    assert client.post_instance(lambda: (b"data",), 4).status == "Success"
    assert [body for _, path, _, body in server.seen if path == "/instances"] == [b"data", b"data"]


def test_a_server_that_always_hangs_up_is_unreachable(server: Server, client: OrthancClient) -> None:
    server.answer = lambda *_: None
    with pytest.raises(OrthancUnreachable):
        client.system()
    assert len(server.seen) == 3


def test_nobody_listening_is_unreachable_and_asked_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OrthancUnreachable, match="GET /system"):
        OrthancClient(OrthancSettings(url=f"http://127.0.0.1:{port}")).system()


def test_a_body_that_ends_early_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return  # shut down
                with peer:
                    peer.recv(65536)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")

        thread = threading.Thread(target=cut)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(OrthancUnreachable):
            OrthancClient(OrthancSettings(url=url)).instance_file(ID)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (400, {"OrthancStatus": 15, "OrthancError": "Bad file format"}, (OrthancRefused, 15)),
        (404, {"OrthancStatus": 17, "OrthancError": "Unknown resource"}, (ResourceMissing, 17)),
        (404, {"OrthancStatus": 21, "OrthancError": "Inexistent tag"}, (OrthancRefused, 21)),
        (507, {"OrthancStatus": 19, "OrthancError": "Full storage"}, (OrthancRefused, 19)),
        (500, None, (OrthancRefused, -1)),
    ],
)
def test_an_error_of_orthancs_is_typed_and_keeps_its_code(
    server: Server, client: OrthancClient, status: int, answer: dict[str, object] | None, expected: object
) -> None:
    server.answer = lambda *_: (status, json.dumps(answer).encode() if answer else b"<html>")
    with pytest.raises(OrthancRefused) as caught:
        client.post_instance(lambda: (b"data",), 4)
    assert (type(caught.value), caught.value.error_code) == expected
    assert caught.value.http_status == status


def test_what_orthanc_quotes_does_not_reach_the_log(server: Server, client: OrthancClient) -> None:
    details = {"OrthancStatus": 3, "OrthancError": "Parameter out of range", "Details": "Doe^Jane is no value"}
    server.answer = lambda *_: (400, json.dumps(details).encode())
    with pytest.raises(OrthancRefused) as caught:
        client.find("Study", {"0010,0010": "Doe^Jane"})
    assert "Doe" not in str(caught.value)


def test_an_answer_that_is_no_json_is_an_error(server: Server, client: OrthancClient) -> None:
    server.answer = lambda *_: (200, b"<html>")
    with pytest.raises(OrthancRefused):
        client.system()


@pytest.mark.parametrize("identifier", ["", "../system", f"{ID}/../..", ID.upper() + "\n", "1.2.3", f"{ID}?x=1"])
def test_nothing_but_orthanc_identifiers_becomes_part_of_a_path(
    server: Server, client: OrthancClient, identifier: str
) -> None:
    for call in (client.instance_file, client.instance_tags):
        with pytest.raises(ValueError, match="not an Orthanc identifier"):
            call(identifier)
    with pytest.raises(ValueError, match="not an Orthanc identifier"):
        client.transcoded_instance(identifier, "1.2.840.10008.1.2")
    assert not server.seen


@pytest.mark.parametrize("transfer_syntax", ["", "1.2&x=y", "../1.2", "1" * 65])
def test_nothing_but_a_uid_is_asked_for_as_transfer_syntax(
    server: Server, client: OrthancClient, transfer_syntax: str
) -> None:
    for call in (client.transcoded_instance, client.modified_instance):
        with pytest.raises(ValueError, match="not an Orthanc identifier or UID"):
            call(ID, transfer_syntax)
    assert not server.seen


def test_the_name_of_a_modality_is_escaped(server: Server, client: OrthancClient) -> None:
    server.answer = lambda *_: (200, b'{"ID": "job"}')
    assert client.submit_store_job("a/../b?c", [ID], "ISEN", "WS", 7) == "job"
    assert server.seen[0][1] == "/modalities/a%2F..%2Fb%3Fc/store"


@pytest.mark.parametrize("length", [10, MEMORY_LIMIT + 1])
def test_a_file_comes_whole_in_memory_or_on_disk(server: Server, client: OrthancClient, length: int) -> None:
    content = bytes(range(256)) * (length // 256 + 1)
    server.answer = lambda *_: (200, content)
    with client.instance_file(ID) as file:
        assert file.read() == content


def test_modalities_are_read_with_orthancs_names() -> None:
    modality = modality_of(
        "pet", {"AET": "PET", "Host": "192.0.2.1", "Port": 104, "LocalAet": "", "AllowTranscoding": False, "Timeout": 5}
    )
    assert (modality.name, modality.ae_title, modality.port, modality.timeout) == ("pet", "PET", 104, 5)
    assert modality.local_ae_title is None
    assert modality.allow_transcoding is False
    assert modality.allow_move is True
