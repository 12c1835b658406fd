"""The share of time in which Orthanc's Python holds its GIL, seen from outside: `python -m tests.bench.gil PID …`.

Reads one word of the process's memory at random moments, 500 times a second. py-spy stops the process for each sample
and misses most holds that are shorter than a millisecond (`python -m tests.bench.gil` compares the two with a known
truth); reading a word disturbs nothing and misses nothing.

It says how long others had to wait, not what the holder did: one that waits for a CPU holds it all the same. Storing by
four senders showed 14.6 % at 19 images/s while other programs took all CPUs, and 11.8 % at 65 images/s on a calmer
machine. Most of what py-spy finds held has no Python frame: there the Python plugin copies the attachment.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backend.stack.orthanc import Orthanc, configuration, merged
from backend.stack.ports import free_port

_PROBE: Final = Path(__file__).with_name("gil_probe.py")
RATE: Final = 500.0  # samples per second


class GilNotFound(Exception):
    """The word could not be told from others; Python's internals have changed."""


@dataclass(frozen=True)
class Place:
    """Where the word lies, in any process that has loaded this library."""

    library: str
    offset: int  # bytes from the library's first mapping


class Watch:
    """Samples in a process of its own."""

    def __init__(self, place: Place, pid: int) -> None:
        """Starts sampling."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.gil", str(pid), place.library, str(place.offset)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun

    def stop(self) -> tuple[float, int]:
        """End sampling; returns the share (0 to 1) and how many samples were taken."""
        output, _ = self._process.communicate()  # closes its input
        held, taken = map(int, output.split())
        return held / max(1, taken), taken


def find() -> tuple[Place, list[dict[str, float]]]:
    """Find the word with an Orthanc of our own, and check the sampling against known shares.

    Raises:
        GilNotFound: this Python keeps it elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="bench-gil-") as folder:
        orthanc = _probe(Path(folder))
        orthanc.start()
        try:
            found = orthanc.get_json("/bench/gil")
            if not found["Offsets"]:
                raise GilNotFound(found["Library"])
            place = Place(found["Library"], found["Offsets"][0])
            truths = [_check(orthanc, place, share, held) for share, held in ((0.02, 0.0003), (0.2, 0.002))]
        finally:
            orthanc.stop()
    return place, truths


def _probe(folder: Path) -> Orthanc:
    base = configuration(folder, "", free_port(), free_port())
    return Orthanc(folder, merged(base, {"Isen": None, "Worklists": None, "PythonScript": str(_PROBE)}))


def _check(orthanc: Orthanc, place: Place, share: float, held: float) -> dict[str, float]:
    watch = Watch(place, orthanc.process.pid)
    truth = orthanc.get_json(f"/bench/hold?share={share}&held={held}&seconds=3")["Share"]
    sampled, taken = watch.stop()
    return {"held_seconds": held, "true_share": truth, "sampled_share": sampled, "samples": taken}


def _compare_with_py_spy() -> None:
    """Print what py-spy makes of the same known shares."""
    with tempfile.TemporaryDirectory(prefix="bench-gil-") as folder:
        orthanc = _probe(Path(folder))
        orthanc.start()
        try:
            found = orthanc.get_json("/bench/gil")
            print(found)
            place = Place(found["Library"], found["Offsets"][0])
            for share, held in ((0.02, 0.0003), (0.02, 0.003), (0.2, 0.0003), (0.2, 0.003), (0.5, 0.003)):
                print(_check(orthanc, place, share, held))
                print(f"    py-spy: {_py_spy(orthanc, share, held, Path(folder) / 'stacks')}")
        finally:
            orthanc.stop()


def _py_spy(orthanc: Orthanc, share: float, held: float, output: Path) -> dict[str, Any]:
    command = [Path(sys.executable).with_name("py-spy"), "record", "--gil", "--idle", "--rate", str(int(RATE))]
    command += ["--duration", "3", "--format", "raw", "--output", output, "--pid", str(orthanc.process.pid)]
    spy = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    truth = orthanc.get_json(f"/bench/hold?share={share}&held={held}&seconds=3.5")["Share"]
    spy.wait()
    samples = sum(int(line.rpartition(" ")[2]) for line in output.read_text().splitlines())
    return {"true_share": truth, "sampled_share": samples / (3 * RATE)}


def _sample(pid: int, place: Place) -> None:
    """Sample until standard input ends, then print held and taken samples."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pass  # a little less punctual when the machine is busy
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        base = min(int(line.split("-")[0], 16) for line in maps if place.library in line)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    print("sampling", flush=True)
    os.set_blocking(0, False)
    held = taken = 0
    while True:
        try:
            if os.read(0, 1) == b"":
                break
        except BlockingIOError:
            pass
        try:
            held += struct.unpack("i", os.pread(memory, 4, base + place.offset))[0] == 1
        except OSError:
            break
        taken += 1
        time.sleep(random.uniform(0.1, 1.9) / RATE)
    print(held, taken)


if __name__ == "__main__":
    if sys.argv[1:]:
        _sample(int(sys.argv[1]), Place(sys.argv[2], int(sys.argv[3])))
    else:
        _compare_with_py_spy()
