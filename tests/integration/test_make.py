"""What `make run` and `make demo` execute: the stack in the foreground, and the tour of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from backend.stack.dcmtk import Peer
from backend.stack.ports import free_port
from backend.stack.processes import marked, wait_until

END_DEADLINE = 8.0  # seconds; Orthanc alone takes two or three


def wait_until_up(run: subprocess.Popen[bytes], output: Path) -> None:
    wait_until(lambda: run.poll() is not None or "Isen runs" in output.read_text(), 60, "the stack is up")
    assert run.poll() is None, output.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_stack_says_how_to_try_it_and_ends_in_order(tmp_path: Path, number: signal.Signals) -> None:
    ports = {name: free_port() for name in ("HTTP_PORT", "DICOM_PORT", "S3_PORT")}
    mark = uuid4().hex
    environment = {**os.environ, **{name: str(port) for name, port in ports.items()}}
    environment |= {"RUN_FOLDER": str(tmp_path / "run"), "INVOCATION": mark}
    output = tmp_path / "output"
    with output.open("wb") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "backend.stack", "run"], stdout=out, stderr=out, env=environment, process_group=0
        )
    try:
        wait_until_up(run, output)
        for port in ports.values():
            assert str(port) in output.read_text()
        peer = Peer(ports["DICOM_PORT"])
        wait_until(lambda: peer.echo().exit_code == 0, 20, "the SCP answers")
        found = peer.find("PatientName", "AccessionNumber", model="-W")
        assert [item.AccessionNumber for item in found.data_sets] == ["A42"]
        assert len(marked(mark, "INVOCATION")) >= 4  # itself, S3, Orthanc, its children
        run.send_signal(number)
        stopped = time.monotonic()
        assert run.wait(END_DEADLINE) == 0, output.read_text()
        wait_until(lambda: not marked(mark, "INVOCATION"), 1, "no process is left")
        assert time.monotonic() - stopped < END_DEADLINE
    finally:
        run.kill()
        for pid in marked(mark, "INVOCATION"):
            os.kill(pid, signal.SIGKILL)


def test_a_stack_that_is_killed_takes_its_servers_with_it(tmp_path: Path) -> None:
    mark = uuid4().hex
    environment = {**os.environ, "RUN_FOLDER": str(tmp_path / "run"), "INVOCATION": mark}
    environment |= {name: str(free_port()) for name in ("HTTP_PORT", "DICOM_PORT", "S3_PORT")}
    output = tmp_path / "output"
    with output.open("wb") as out:
        run = subprocess.Popen([sys.executable, "-m", "backend.stack", "run"], stdout=out, stderr=out, env=environment)
    wait_until_up(run, output)
    run.kill()
    run.wait()
    wait_until(lambda: not marked(mark, "INVOCATION"), END_DEADLINE, "no process is left")


def test_a_folder_that_is_not_its_own_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "precious").touch()
    run = subprocess.run(
        [sys.executable, "-m", "backend.stack", "run"],
        capture_output=True,
        text=True,
        env={**os.environ, "RUN_FOLDER": str(tmp_path)},
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    assert "RUN_FOLDER" in run.stderr
    assert (tmp_path / "spool" / "precious").exists()


def test_the_tour_passes_and_leaves_no_process(tmp_path: Path) -> None:
    mark = uuid4().hex
    tour = subprocess.run(
        [sys.executable, "-m", "backend.stack", "demo"],
        capture_output=True,
        text=True,
        env={**os.environ, "INVOCATION": mark, "TMPDIR": str(tmp_path)},
        timeout=100,
        check=False,
    )
    assert tour.returncode == 0, tour.stdout + tour.stderr
    assert "All 8 steps passed" in tour.stdout
    assert marked(mark, "INVOCATION") == {}
    assert list(tmp_path.iterdir()) == []


def test_a_tour_that_fails_says_so_with_its_exit_code(tmp_path: Path) -> None:
    """Without its Python plugin Orthanc does not start."""
    tour = subprocess.run(
        [sys.executable, "-m", "backend.stack", "demo"],
        capture_output=True,
        text=True,
        env={**os.environ, "ORTHANC_PYTHON_PLUGIN": "/nowhere.so", "TMPDIR": str(tmp_path)},
        timeout=100,
        check=False,
    )
    assert tour.returncode != 0
    assert "failed" in tour.stdout
