"""C-STORE by unmodified senders: throughput, what it does to the REST API, to the GIL and to the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from tests.bench import gil
from tests.bench.contenders import (
    ISEN,
    ISEN_OBJECTSTORE,
    ISEN_RECEIVED,
    ORTHANC,
    ORTHANC_NODELAY,
    ORTHANC_NODELAY_BOTH,
    SAMPLES,
    Contender,
)
from tests.bench.images import CT, LARGE, MULTI_FRAME, SMALL, Size
from tests.bench.measure import Watcher, quantile, used
from tests.bench.senders import SendingFailed, send
from tests.bench.table import Bench, Case, Form, Sample, Work

EVERYBODY: Final = (ORTHANC, ORTHANC_NODELAY, ORTHANC_NODELAY_BOTH, SAMPLES, ISEN, ISEN_OBJECTSTORE, ISEN_RECEIVED)
_QUICKLY: Final = tuple(name for name in EVERYBODY if name != ORTHANC_NODELAY_BOTH)
_WITH_S3: Final = (SAMPLES, ISEN, ISEN_OBJECTSTORE, ISEN_RECEIVED)
_FAR: Final = 0.025  # seconds of S3's latency unless a case says otherwise
_ASKING: Final = 50.0  # GET /system per second while images are stored


@dataclass(frozen=True)
class _Load:
    size: Size
    senders: int
    images: int  # of each sender
    latency: float = _FAR  # of S3, in seconds

    def of(self, contender: Contender) -> int:
        """Images of each sender: fewer for those that need ten times as long for one."""
        slow = contender.name == ORTHANC or (contender.name == SAMPLES and self.senders == 1)
        return max(1, self.images // 4) if slow and self.size in (CT, SMALL) else self.images


def works(form: Form) -> Iterator[Work]:
    """All of them, in the order they are run."""
    for senders, images in ((1, 160), (4, 60), (16, 20)) if form.full else ((1, 50), (4, 20)):
        yield _case(_Load(CT, senders, images), EVERYBODY if form.full else _QUICKLY)
    for latency in (0.0, 0.005) if form.full else ():
        for senders, images in ((1, 160), (4, 60)):
            yield _case(_Load(CT, senders, images, latency), _WITH_S3, rounds=3)
    if form.full:
        for senders, images in ((1, 100), (4, 60), (16, 30)):
            yield _case(_Load(SMALL, senders, images), EVERYBODY, rounds=3)
        yield _case(_Load(MULTI_FRAME, 1, 4), EVERYBODY, rounds=3)
        yield _case(_Load(MULTI_FRAME, 4, 2), EVERYBODY, rounds=3)
        yield _case(_Load(LARGE, 1, 1), EVERYBODY, rounds=1)
    yield Work(
        (
            Case(
                "GIL held while storing",
                "512 KB, 4 senders",
                "% of samples",
                {"size": CT.name, "senders": 4, "latency": _FAR},
                more_is_better=False,
            ),
        ),
        _WITH_S3,
        partial(_gil_held, load=_Load(CT, 4, 60 if form.full else 40)),
        rounds=None if form.full else 1,
    )


def _case(load: _Load, contenders: tuple[str, ...], rounds: int | None = None) -> Work:
    distance = "" if load.latency == _FAR else f", S3 at {1000 * load.latency:g} ms"
    case = Case(
        "store",
        f"{load.size.name}, {load.senders} sender{'s' if load.senders > 1 else ''}{distance}",
        "images/s",
        {"size": load.size.name, "senders": load.senders, "latency": load.latency},
    )
    # hours of stores lie between the two: here most uploads begin when all images are stored
    cases = (case, replace(case, work="stored and in S3"))
    return Work(cases, contenders, partial(_store_and_upload, load=load), rounds)


def _store_and_upload(bench: Bench, contender: Contender, load: _Load) -> list[Sample | None]:
    stored = _store(bench, contender, load)
    return [stored, _until_in_s3(stored) if contender.recipe.uses_s3 else None]


def _until_in_s3(sample: Sample) -> Sample:
    return Sample(sample.details["images"] / sample.details["seconds_until_all_in_s3"])


def _store(bench: Bench, contender: Contender, load: _Load) -> Sample:
    bench.s3.move(load.latency)
    images = load.of(contender)
    total = images * load.senders
    studies = [bench.studies.write(load.size, images) for _ in range(load.senders)]
    before = contender.instances()
    processes = contender.processes() | bench.s3.pids
    try:
        with Watcher(contender.orthanc.url, processes, contender.pending, _ASKING) as watcher:
            elapsed = send(
                contender.dicom_port, [study.folder for study in studies], nodelay=contender.recipe.nodelay_senders
            )
            watcher.stop_asking()
            drained = contender.settle()
    finally:
        for study in studies:
            study.remove()
    if (stored := contender.instances() - before) != total:
        raise SendingFailed(f"{total} images were sent without an error, {stored} arrived")
    contender.drop(bench.s3)
    watched = watcher.watched
    return Sample(
        total / elapsed,
        {
            "images": total,
            "seconds": round(elapsed, 3),
            "seconds_until_all_in_s3": round(elapsed + drained, 3),
            "backlog": watched.backlog,
            "rest_p50_ms": round(1000 * quantile(watched.latencies, 0.5), 2),
            "rest_p99_ms": round(1000 * quantile(watched.latencies, 0.99), 2),
            "rest_ms": [round(1000 * latency, 2) for latency in watched.latencies],
            "processes": used(watched.uses, total),
        },
    )


def _gil_held(bench: Bench, contender: Contender, load: _Load) -> list[Sample]:
    if bench.gil is None:
        raise SendingFailed("the GIL was not found in this Python")
    bench.s3.move(load.latency)
    images = load.of(contender)
    studies = [bench.studies.write(load.size, images) for _ in range(load.senders)]
    watch = gil.Watch(bench.gil, contender.orthanc.process.pid)
    try:
        elapsed = send(contender.dicom_port, [study.folder for study in studies])
    finally:
        share, taken = watch.stop()
        for study in studies:
            study.remove()
    contender.settle()
    contender.drop(bench.s3)
    return [Sample(100 * share, {"samples": taken, "images_per_second": round(load.senders * images / elapsed, 1)})]
