"""C-FIND at study level among thousands of studies: one answer, a hundred, a thousand.

The index is filled once by an Orthanc without Isen and copied to each contender, which is started for this work alone:
at this level nobody reads an attachment.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.bench.contenders import ISEN, ORTHANC, ORTHANC_NODELAY, RECIPES, Contender
from tests.bench.images import Size, encoded
from tests.bench.senders import environment, tool
from tests.bench.table import Bench, Case, Form, Sample, Work

_TINY: Final = Size("tiny", side=2, frames=1, bytes_per_pixel=2)
_FIRST: Final = 9_000_000  # number of the first study; those of `Studies` stay below
_PER_DAY: Final = 100  # studies with the same StudyDate
_REPEATS: Final = 5


class FindFailed(Exception):
    """Other answers than expected."""


def works(form: Form) -> Iterator[Work]:
    """One piece of work: a case for each number of answers."""
    total, answers = (10_000, (1, 100, 1000)) if form.full else (1000, (1, 100))
    cases = [
        Case("C-FIND", f"{count} of {total} studies", "ms", {"answers": count}, more_is_better=False)
        for count in answers
    ]
    yield Work(
        tuple(cases),
        (ORTHANC, ORTHANC_NODELAY, ISEN),
        partial(_find, total=total, answers=answers),
        rounds=None if form.full else 1,
    )


def _find(bench: Bench, contender: Contender, total: int, answers: tuple[int, ...]) -> list[Sample]:
    filled = bench.memory.get(("find", contender.name))
    if filled is None:
        filled = bench.memory["find", contender.name] = _filled(bench, contender.name, total)
    samples = []
    for count in answers:
        times = [_ask(filled, count) for _ in range(_REPEATS)]
        samples.append(Sample(1000 * min(times), {"answers": count, "seconds": times}))
    return samples


def _ask(contender: Contender, answers: int) -> float:
    """Seconds of one findscu, its start included."""
    first, last = _day(0), _day(answers // _PER_DAY - 1)
    key = f"PatientID=FIND{_FIRST + 7}" if answers == 1 else f"StudyDate={first}-{last}"
    keys = ["QueryRetrieveLevel=STUDY", key, "PatientName", "StudyInstanceUID", "StudyDescription", "AccessionNumber"]
    command = [tool("findscu"), "-v", "-S", "-aec", "ORTHANC", *(word for key in keys for word in ("-k", key))]
    start = time.monotonic()
    run = subprocess.run(
        [*command, "127.0.0.1", str(contender.dicom_port)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(nodelay=True),
    )
    elapsed = time.monotonic() - start
    found = (run.stdout + run.stderr).count("(0020,000d)") - 1  # the query is printed as well
    if run.returncode or found != answers:
        raise FindFailed(f"findscu ended with {run.returncode}, {found} answers instead of {answers}")
    return elapsed


def _day(number: int) -> str:
    return f"2001{1 + number // 28:02d}{1 + number % 28:02d}"


def _filled(bench: Bench, name: str, total: int) -> Contender:
    """A contender of this name with the filled index."""
    index = bench.memory.get(("find", "index"))
    if index is None:
        index = bench.memory["find", "index"] = _fill(bench, total)
    around = replace(bench.around, folder=bench.around.folder / "find")
    contender = Contender(RECIPES[name], around)
    shutil.copytree(index, contender.folder / "index")
    contender.start()
    bench.at_end.callback(contender.stop)
    return contender


def _fill(bench: Bench, total: int) -> Path:
    """The index of an Orthanc that has `total` studies of one tiny image each."""
    folder = Path(bench.at_end.enter_context(tempfile.TemporaryDirectory(prefix="bench-index-")))
    around = replace(bench.around, folder=folder)
    contender = Contender(RECIPES[ORTHANC], around)
    contender.orthanc.settings |= {"SyncStorageArea": False, "StorageDirectory": str(folder / "attachments")}
    contender.orthanc.start()
    try:
        clients = 4
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(partial(_post, contender.orthanc.url), [range(n, total, clients) for n in range(clients)]))
        if contender.instances() != total:
            raise FindFailed(f"{contender.instances()} of {total} studies were stored")
    finally:
        contender.orthanc.stop()
    return contender.folder / "index"


def _post(url: str, numbers: range) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    for number in numbers:
        connection.request("POST", "/instances", _tiny(number))
        connection.getresponse().read()
    connection.close()


def _tiny(number: int) -> bytes:
    header, pixels = encoded(_TINY, _FIRST + number, 1)
    identifier = f"FIND{_FIRST + number}".ljust(16).encode()
    begin = header.index(b"LO", header.index(b"\x10\x00\x20\x00LO")) + 4  # the value of PatientID
    header = header[:begin] + identifier + header[begin + 16 :]
    return header.replace(b"20240229", _day(number // _PER_DAY).encode()) + pixels
