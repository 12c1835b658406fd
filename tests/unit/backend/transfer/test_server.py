"""Deliveries over a real socket; the requests themselves are those of the integration tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from backend import messages
from backend.stack.processes import wait_until
from backend.transfer.deliveries import File, HandOver
from backend.transfer.server import MAXIMUM_ANNOUNCED, Server

NAMES = [f"11111111-2222-3333-4444-{number:012x}.dcm" for number in range(300)]


class Begun:
    """Takes what is to be delivered, and whom to."""

    def __init__(self) -> None:
        self.attachments: list[tuple[str, int]] = []
        self.hand_over: HandOver = lambda _files, _missing: False

    def __call__(self, attachments: list[tuple[str, int]], hand_over: HandOver) -> None:
        self.hand_over = hand_over
        self.attachments += attachments


@pytest.fixture
def begun() -> Begun:
    return Begun()


@pytest.fixture
def connection(tmp_path: Path, begun: Begun) -> Iterator[socket.socket]:
    def no_request(*_: Any) -> Any:
        raise AssertionError

    path = tmp_path / "transfer.sock"
    with messages.listen(path) as listener:
        server = Server(
            listener,
            fetch=no_request,
            deliver_one=no_request,
            deliver=begun,
            fetch_range=no_request,
            upload=no_request,
            wake=no_request,
            read=no_request,
            prefetch=cast("Any", None),
            confirm=no_request,
        )
        server.start()
        with messages.connect(path) as connection:
            connection.settimeout(10)
            yield connection
        server.stop()


def announce(connection: socket.socket, begun: Begun, attachments: list[Any]) -> None:
    messages.send(connection, {"Operation": "deliver", "Attachments": attachments})
    wait_until(lambda: begun.attachments, 10, "they have been announced")


def test_what_is_no_attachment_is_not_delivered(connection: socket.socket, begun: Begun) -> None:
    nonsense = [["../x", 1], [NAMES[1], -1], [NAMES[1], "1"], NAMES[1], None]
    announce(connection, begun, [*nonsense, *([name, 7] for name in NAMES)])
    assert begun.attachments == [(name, 7) for name in NAMES[: MAXIMUM_ANNOUNCED - len(nonsense)]]


def test_files_travel_with_their_names(connection: socket.socket, begun: Begun, tmp_path: Path) -> None:
    announce(connection, begun, [[NAMES[0], 1]])
    files = []
    for number in range(2):
        path = tmp_path / str(number)
        path.write_text(path.name)
        files.append(File(NAMES[number], number / 4, os.open(path, os.O_RDONLY)))
    assert begun.hand_over(files, [NAMES[2]])
    assert begun.hand_over([], [NAMES[3]])
    message, descriptors = messages.receive(connection)
    assert message == {"Files": [[NAMES[0], 0], [NAMES[1], 0.25]], "Missing": [NAMES[2]]}
    assert [os.read(descriptor, 9) for descriptor in descriptors] == [b"0", b"1"]
    assert messages.receive(connection) == ({"Files": [], "Missing": [NAMES[3]]}, [])
    for descriptor in (*descriptors, *(file.descriptor for file in files)):
        os.close(descriptor)


def test_who_does_not_read_what_he_asked_for_loses_the_connection(connection: socket.socket, begun: Begun) -> None:
    announce(connection, begun, [[NAMES[0], 1]])
    sent = 0
    while begun.hand_over([], [NAMES[0]]):
        sent += 1
        assert sent < 10_000
    assert sent >= 100, "what one retrieve request announces at a time finds room"
    assert not begun.hand_over([], [NAMES[0]])
    for _ in range(sent):
        assert messages.receive(connection)[0]["Missing"] == [NAMES[0]]
    with pytest.raises(messages.Disconnected):
        messages.receive(connection)


def test_nothing_is_sent_to_who_has_gone(connection: socket.socket, begun: Begun) -> None:
    announce(connection, begun, [[NAMES[0], 1]])
    connection.close()
    wait_until(lambda: not begun.hand_over([], [NAMES[0]]), 10, "nobody is there")
    peer = begun.hand_over.__self__  # type: ignore[attr-defined] # the bound method of the connection
    wait_until(lambda: peer._connection.fileno() == -1, 10, "it has been closed")
    assert not begun.hand_over([], [NAMES[0]])
