"""Threads for busy associations."""

from __future__ import annotations

import socket
import threading

import pytest

from scp.service_threads import ServiceThreads
from scp.upper_layer.association import Association, Outcome
from scp.upper_layer.transport import Transport


def never() -> Association:
    raise AssertionError


def test_without_a_thread_one_peer_goes_and_the_worker_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on tasks (systemd, a container) is reached: what is under way must go on."""

    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    woken: list[bool] = []
    threads = ServiceThreads(lambda: woken.append(True))
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        transport = Transport(sock)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        threads.establish(never, transport, (1, 2))
    (returned,) = threads.returned()
    assert (returned.transport, returned.entry, returned.association) == (transport, (1, 2), None)
    assert returned.outcome is Outcome.CLOSED
    assert threads.running == 0
    assert woken
    assert "no_thread" in caplog.text
