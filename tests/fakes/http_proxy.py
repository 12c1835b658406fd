"""A proxy as companies have it: forwards plain requests, opens tunnels for others, and may ask who is there."""

from __future__ import annotations

import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class HttpProxy(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface from the start."""

    daemon_threads = True

    def __init__(self, authorization: str = "") -> None:
        """`authorization`: what Proxy-Authorization must say, if it must say anything."""
        super().__init__(("127.0.0.1", 0), _Handler)
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
            back = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
            back.start()
            _copy(self.connection, target)
            back.join(5)
        self.close_connection = True

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._may_pass():
            return
        url = urlsplit(self.path)
        connection = http.client.HTTPConnection(url.netloc)
        connection.request(self.command, url.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_PUT = do_HEAD = do_DELETE = forward  # noqa: N815 - the standard library's names

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


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side is gone
