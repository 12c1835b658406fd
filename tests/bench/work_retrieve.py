"""Getting images back: C-MOVE, C-GET, archives and files over REST, from local storage and from S3 alone.

Each way has a study of its own, so that none profits from another one's reads. A contender is restarted before it is
measured: nothing is in Orthanc's memory. Isen is first measured with empty spool and cache, then again with what that
left in the cache. Who keeps images on the local disk has only one figure, which stands in both rows.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from tests.bench.contenders import DESTINATION, ISEN, ORTHANC_NODELAY, SAMPLES, Contender
from tests.bench.destination import take
from tests.bench.images import CT, Study
from tests.bench.senders import environment, send, tool
from tests.bench.table import Bench, Case, Form, Sample, Work

_FAR: Final = 0.025  # seconds of S3's latency
_DEADLINE: Final = 300.0  # seconds
_CHUNK: Final = 1 << 20  # bytes
Way = Callable[[Bench, Contender, Study], float]  # returns seconds


class RetrievalFailed(Exception):
    """Fewer images came than were asked for."""


def works(form: Form) -> Iterator[Work]:
    """One piece of work with every way in two places."""
    many, some = (200, 60) if form.full else (60, 15)
    images = [some if "archive" in name else many for name, _ in _WAYS]  # Orthanc needs 50 ms to compress one
    cases = [
        Case(name, f"{count} of {CT.name}, {place}", "images/s", {"place": place})
        for place in ("local", "only in S3")
        for (name, _), count in zip(_WAYS, images, strict=True)
    ]
    yield Work(
        tuple(cases),
        (ORTHANC_NODELAY, SAMPLES, ISEN),
        partial(_retrieve, images=images),
        rounds=None if form.full else 1,
    )


def _retrieve(bench: Bench, contender: Contender, images: Sequence[int]) -> list[Sample | None]:
    studies = bench.memory.get(("retrieve", contender.name))
    if studies is None:
        studies = bench.memory["retrieve", contender.name] = _prepare(bench, contender, images)
    bench.s3.move(_FAR)
    contender.restart(forget=True)
    far = [_measure(bench, contender, study, way) for study, (_, way) in zip(studies, _WAYS, strict=True)]
    if not contender.recipe.uses_s3:
        return [*far, *far]
    if not contender.is_isen:  # it keeps nothing here
        return [None for _ in far] + far
    contender.restart(forget=False)
    near = [_measure(bench, contender, study, way) for study, (_, way) in zip(studies, _WAYS, strict=True)]
    return [*near, *far]


def _prepare(bench: Bench, contender: Contender, images: Sequence[int]) -> list[Study]:
    bench.s3.move(0)
    studies = [bench.studies.write(CT, count) for count in images]
    send(contender.dicom_port, [study.folder for study in studies], nodelay=True)
    for study in studies:
        study.remove()
    contender.settle()
    return studies


def _measure(bench: Bench, contender: Contender, study: Study, way: Way) -> Sample | None:
    if way in (_move, _get) and not contender.recipe.retrieves:
        return None
    elapsed = way(bench, contender, study)
    return Sample(study.images / elapsed, {"images": study.images, "seconds": round(elapsed, 3)})


def _move(bench: Bench, contender: Contender, study: Study) -> float:
    elapsed, output = _run("movescu", ["-aem", DESTINATION], contender, study)
    _complain_unless_all(study, bench.destination.take(), output)
    return elapsed


def _get(bench: Bench, contender: Contender, study: Study) -> float:
    folder = bench.studies.folder / "got"
    folder.mkdir(exist_ok=True)
    elapsed, output = _run("getscu", ["--bit-preserving", "--output-directory", str(folder)], contender, study)
    _complain_unless_all(study, take(folder), output)
    return elapsed


def _run(program: str, options: list[str], contender: Contender, study: Study) -> tuple[float, str]:
    """Seconds and output of a tool that has TCP_NODELAY=1, so that it is the server's speed that shows."""
    command = [tool(program), "-S", "-aec", "ORTHANC", *options]
    command += ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.uid}"]
    command += ["127.0.0.1", str(contender.dicom_port)]
    start = time.monotonic()
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_DEADLINE, env=environment(nodelay=True)
    )
    elapsed = time.monotonic() - start
    if run.returncode:
        raise RetrievalFailed(f"{program} ended with {run.returncode}: {(run.stdout + run.stderr)[-300:]}")
    return elapsed, run.stdout + run.stderr


def _complain_unless_all(study: Study, stored: int, output: str) -> None:
    if stored != study.images:
        raise RetrievalFailed(f"{stored} of {study.images} images came: {output[-300:]}")


def _archive(_bench: Bench, contender: Contender, study: Study, level: str) -> float:
    (identifier,) = contender.find(level, StudyInstanceUID=study.uid)
    folder = {"Study": "studies", "Series": "series"}[level]
    start = time.monotonic()
    size = _download(contender.orthanc.url, [f"/{folder}/{identifier}/archive"])
    elapsed = time.monotonic() - start
    if size < study.images * 10_000:
        raise RetrievalFailed(f"an archive of {size} bytes")
    return elapsed


def _files(_bench: Bench, contender: Contender, study: Study, clients: int) -> float:
    paths = [f"/instances/{identifier}/file" for identifier in contender.find("Instance", StudyInstanceUID=study.uid)]
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        sizes = pool.map(
            partial(_download, contender.orthanc.url), [paths[client::clients] for client in range(clients)]
        )
    elapsed = time.monotonic() - start
    if sum(sizes) < study.images * CT.pixel_bytes:
        raise RetrievalFailed("bytes are missing")
    return elapsed


def _download(url: str, paths: list[str]) -> int:
    """Read every path over one kept-alive connection; returns the number of bytes."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_DEADLINE)
    size = 0
    buffer = bytearray(_CHUNK)
    for path in paths:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            raise RetrievalFailed(f"{path}: {response.status}")
        while read := response.readinto(buffer):
            size += read
    connection.close()
    return size


_WAYS: Final[tuple[tuple[str, Way], ...]] = (
    ("C-MOVE", _move),
    ("C-GET", _get),
    ("study archive", partial(_archive, level="Study")),
    ("series archive", partial(_archive, level="Series")),
    ("file, 1 client", partial(_files, clients=1)),
    ("file, 8 clients", partial(_files, clients=8)),
)
