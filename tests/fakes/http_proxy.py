"""A proxy as companies have it: forwards plain requests, opens tunnels for others, and may ask who is there.

It may itself be spoken to in TLS.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.fakes.certificates import Certificates, served_in_tls


class HttpProxy(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface from the start."""

    daemon_threads = True

    def __init__(self, authorization: str = "", certificates: Certificates | None = None) -> None:
        """`authorization`: what Proxy-Authorization must say, if it must say anything. `certificates`: of its TLS."""
        super().__init__(("127.0.0.1", 0), _Handler)
        if certificates is not None:
            self.socket = served_in_tls(self.socket, certificates)
        self.authorization = authorization
        self.requests: list[str] = []  # "GET http://…", "CONNECT host:port"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HttpProxy
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if not self._may_pass():
            return
        host, _, port = self.path.partition(":")
        self.send_response(200)
        self.end_headers()
        with socket.create_connection((host, int(port))) as target:
            _relay(self.connection, target)
        self.close_connection = True

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._may_pass():
            return
        url = urlsplit(self.path)
        connection = http.client.HTTPConnection(url.netloc)
        connection.request(self.command, url._replace(scheme="", netloc="").geturl(), body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815 - the standard library's names

    def _may_pass(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Proxy-Authorization", "") == self.server.authorization:
            return True
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Until one of them ends; in one thread, because a TLS socket must not be used by two."""
    ends = {one: other, other: one}
    try:
        while True:
            readable = [end for end in ends if isinstance(end, ssl.SSLSocket) and end.pending()]
            for source in readable or select.select(list(ends), [], [])[0]:
                block = source.recv(65536)
                if not block:
                    return
                ends[source].sendall(block)
    except OSError:
        pass  # the other side is gone
