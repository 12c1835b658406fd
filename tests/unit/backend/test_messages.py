"""Messages to the transfer process keep their boundaries and carry descriptors, even below a very long path."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from backend import messages


def test_a_request_and_its_reply_with_a_descriptor(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40) / ("path" * 30)
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"content")
    with messages.listen(folder / "transfer.sock") as listener, messages.connect(folder / "transfer.sock") as client:
        assert (folder / "transfer.sock").stat().st_mode & 0o777 == 0o600
        server, _ = listener.accept()
        with server:
            messages.send(client, {"Operation": "fetch"})
            messages.send(client, {"Operation": "wake"})
            assert messages.receive(server) == ({"Operation": "fetch"}, [])
            assert messages.receive(server) == ({"Operation": "wake"}, [])
            descriptor = os.open(folder / "file", os.O_RDONLY)
            messages.send(server, {"Result": "ok"}, [descriptor])
            os.close(descriptor)
        reply, descriptors = messages.receive(client)
        assert reply == {"Result": "ok"}
        assert os.read(descriptors[0], 100) == b"content"
        os.close(descriptors[0])
        with pytest.raises(messages.Disconnected):
            messages.receive(client)


@pytest.mark.parametrize("packet", [b"[1]", b"{", b'"' + b"x" * 70_000 + b'"', b"\xff"])
def test_what_is_not_one_json_object_is_refused(packet: bytes) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.send(packet)
        with pytest.raises(ValueError, match=r".+"):
            messages.receive(right)


def test_a_left_over_socket_file_is_replaced(tmp_path: Path) -> None:
    messages.listen(tmp_path / "s").close()
    messages.listen(tmp_path / "s").close()
