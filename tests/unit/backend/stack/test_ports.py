"""Which ports `make run` takes, and what it says of those it cannot have."""

from __future__ import annotations

import os
import socket

import pytest

from backend.stack.ports import PortsTaken, free_port, ports_from_environment


def test_a_free_port_can_be_listened_on_and_is_not_given_twice() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == len(ports)
    assert max(ports) < 32768  # where the ports of outgoing connections begin, one of which might have it before us
    socket.create_server(("127.0.0.1", ports[0])).close()


def test_a_default_is_used_unless_the_environment_names_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = free_port(), free_port()
    monkeypatch.setenv("DICOM_PORT", str(other))
    assert ports_from_environment({"HTTP_PORT": one, "DICOM_PORT": 4242}) == {"HTTP_PORT": one, "DICOM_PORT": other}


def test_every_port_that_is_taken_is_named_with_its_owner_and_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("0.0.0.0", 0)) as second:
        ports = {"HTTP_PORT": first.getsockname()[1], "S3_PORT": second.getsockname()[1]}
        with pytest.raises(PortsTaken) as taken:
            ports_from_environment(ports)
    for variable, port in ports.items():
        assert f"port {port} is taken by" in str(taken.value)
        assert f"{variable}=" in str(taken.value)
    assert f"(process {os.getpid()})" in str(taken.value)


def test_two_servers_cannot_have_one_port() -> None:
    port = free_port()
    with pytest.raises(PortsTaken, match="named twice"):
        ports_from_environment({"HTTP_PORT": port, "DICOM_PORT": port})


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "http"])
def test_what_is_no_port_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HTTP_PORT", text)
    if text:
        with pytest.raises(ValueError, match="HTTP_PORT"):
            ports_from_environment({"HTTP_PORT": free_port()})
    else:
        assert ports_from_environment({"HTTP_PORT": free_port()})
