"""The socket of the managed worklist; what goes over it is shown by the integration tests of its routes."""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from scp.worklists import server
from scp.worklists.api import Answer, Request
from scp.worklists.server import Server


class Listener(socket.socket):
    """Fails a few times more often than there are places."""

    failures = server.MAXIMUM_CONNECTIONS + 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def echo(request: Request) -> Answer:
    return Answer(200, [request.method, request.path])


def test_requests_are_answered_once_descriptors_are_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_ACCEPT_PAUSE", 0.001)
    address = str(tmp_path / "socket")
    listener = Listener(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # not closed: the server accepts until the process ends
    listener.bind(address)
    listener.listen()
    Server(listener, echo).start()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as client:
        client.settimeout(10)
        client.connect(address)
        client.send(json.dumps({"Method": "GET", "Path": "/worklists", "Arguments": {}}).encode())
        packet, (descriptor,), _, _ = socket.recv_fds(client, 1000, 1)
    with open(descriptor, "rb") as document:
        document.seek(0)
        assert (json.loads(packet), json.load(document)) == ({"Status": 200}, ["GET", "/worklists"])
    assert not listener.failures
