"""The listening DICOM socket and the workers' launch messages."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from config import scp_workers
from config.scp_workers import PortTaken, dicom_listener, worker_specs


def taken() -> socket.socket:
    return socket.create_server(("", 0))


def test_a_port_that_becomes_free_is_waited_for() -> None:
    """A worker of a parent that was killed holds it until it notices."""
    other = taken()
    timer = threading.Timer(0.3, other.close)
    timer.start()
    port = other.getsockname()[1]
    with socket.socket(fileno=dicom_listener(port)) as listener:
        assert listener.getsockname()[1] == port
        assert not os.get_blocking(listener.fileno())
    timer.join()


def test_a_port_of_another_program_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scp_workers, "_PATIENCE", 0.2)
    with (
        taken() as other,
        pytest.raises(PortTaken, match=r"DicomPort: cannot listen on port .* choose a free DicomPort"),
    ):
        dicom_listener(other.getsockname()[1])


def test_associations_are_shared_out_without_a_rest() -> None:
    settings = {"Dicom": {"Port": 0, "Processes": 3, "MaximumAssociations": 200}}
    specs = worker_specs(settings, "token", {})
    launches = [spec.launch_message() for spec in specs]
    assert [launch["MaximumAssociations"] for launch in launches] == [67, 67, 66]
    assert [launch["Worker"] for launch in launches] == [1, 2, 3]
    assert {spec.descriptors for spec in specs} == {(launches[0]["Listener"], launches[0]["Occupancy"])}
    for descriptor in specs[0].descriptors:
        os.close(descriptor)
