"""C-ECHO, alone and beside associations that are open and say nothing, and what those cost."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench.contenders import ISEN, ORTHANC, ORTHANC_NODELAY, SAMPLES, Contender
from tests.bench.measure import Processes
from tests.bench.senders import environment, tool
from tests.bench.table import Bench, Case, Form, Sample, Work

_ECHOES: Final = 20  # on one association
_IDLE_SECONDS: Final = 3.0  # over which CPU is measured
_PATIENCE: Final = 10.0  # seconds for a C-ECHO beside idle associations
_VERIFICATION: Final = b"1.2.840.10008.1.1"
_IMPLICIT_LITTLE_ENDIAN: Final = b"1.2.840.10008.1.2"
_APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"


class NoAnswer(Exception):
    """The association was refused or the C-ECHO not answered."""


def works(form: Form) -> Iterator[Work]:
    """C-ECHO alone, then beside idle associations."""
    yield Work(
        (Case("C-ECHO", f"{_ECHOES} on one association", "ms", more_is_better=False),),
        (ORTHANC, ORTHANC_NODELAY, SAMPLES, ISEN),
        lambda _bench, contender: [Sample(1000 * _echo(contender, _ECHOES) / _ECHOES)],
        rounds=None if form.full else 2,
    )
    for count in (0, 100, 500) if form.full else (100,):
        yield Work(
            (
                Case("idle associations", str(count), "% of a core", {"idle": count}, more_is_better=False),
                Case("C-ECHO", f"beside {count} idle associations", "ms", {"idle": count}, more_is_better=False),
            ),
            (*((ORTHANC,) if form.full else ()), *((SAMPLES,) if count <= 100 else ()), ISEN),
            partial(_idle, count=count),
            rounds=2 if form.full else 1,
        )


def _echo(contender: Contender, times: int) -> float:
    """Seconds of an association with so many C-ECHOs."""
    command = [tool("echoscu"), "-aec", "ORTHANC", "--repeat", str(times), "127.0.0.1", str(contender.dicom_port)]
    start = time.monotonic()
    run = subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE, env=environment(nodelay=False))
    if run.returncode:
        raise NoAnswer(f"echoscu ended with {run.returncode}: {run.stderr.decode(errors='replace')[-300:]}")
    return time.monotonic() - start


def _idle(_bench: Bench, contender: Contender, count: int) -> list[Sample | None]:
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_associate(contender.dicom_port))
        processes = Processes(contender.processes())
        start = time.monotonic()
        processes.begin()
        time.sleep(_IDLE_SECONDS)
        uses = processes.end()
        share = 100 * sum(use.cpu for use in uses.values()) / (time.monotonic() - start)
        try:
            echo: Sample | None = Sample(1000 * _echo(contender, 1))
        except subprocess.TimeoutExpired:
            echo = Sample(1000 * _PATIENCE, {"timed_out": True})
    return [Sample(share), echo]


def _associate(port: int) -> socket.socket:
    """A connection with an accepted association for C-ECHO."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    connection.sendall(_association_request())
    answer = connection.recv(1)
    if answer != b"\x02":  # A-ASSOCIATE-AC
        connection.close()
        raise NoAnswer(f"the association was answered with {answer.hex() or 'the end of the connection'}")
    return connection


def _association_request() -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2) with one presentation context."""
    context = struct.pack(">BBBB", 1, 0, 0, 0) + _item(0x30, _VERIFICATION) + _item(0x40, _IMPLICIT_LITTLE_ENDIAN)
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"2.25.1")
    variable = _item(0x10, _APPLICATION_CONTEXT) + _item(0x20, context) + _item(0x50, user)
    fixed = struct.pack(">HH16s16s32x", 1, 0, b"ORTHANC".ljust(16), b"IDLE".ljust(16))
    return struct.pack(">BxI", 1, len(fixed + variable)) + fixed + variable


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value
