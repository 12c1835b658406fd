"""Reading what is only in S3: the next images are there before Orthanc asks, and what was not asked for stays away.

S3 is 25 ms away, as it is from most archives; in S3 next door a reader is faster than any read-ahead.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from backend.stack.processes import wait_until
from backend.stack.s3_server import S3Server
from tests.bench.distant_s3 import DistantS3
from tests.fakes.images import write_series
from tests.integration.harness import Node

IMAGES = 24  # of each series
SERIES = 2  # of each study
SIDE = 64  # pixels
LATENCY = 0.025  # seconds
FAR = 0.3  # seconds; longer than Orthanc takes to tell the order of a series, on a machine that does much else too
THREADS = 4  # with which Orthanc 1.13 reads, unless it is told otherwise (StorageLoaderThreadsCount)
QUIET_REPORTS = 2  # in a row that tell of no download, after which no more are expected; they come every second
STUDIES = ("archive", "get", "single", "loop", "eight", "tags", "prefetch", "cancelled")


class Study:
    """A study that is only in S3, and the counters since the test began to read it."""

    def __init__(self, node: Node, study: str) -> None:
        self.node = node
        self.id = study
        self.series: list[str] = sorted(node.orthanc.get_json(f"/studies/{study}")["Series"])  # archives' order
        self._before = self._settled()

    def instances(self, series: int) -> list[str]:
        found: list[str] = self.node.orthanc.get_json(f"/series/{self.series[series]}")["Instances"]
        return found

    def settled(self) -> dict[str, int]:
        """What was counted, once no more downloads come."""
        return {name: value - self._before.get(name, 0) for name, value in self._settled().items()}

    def _settled(self) -> dict[str, int]:
        """The counters are as old as the report that brought them, so it is reports that must say the same."""
        last: dict[str, int] = {}
        age, quiet = 0.0, 0

        def is_settled() -> bool:
            nonlocal last, age, quiet
            storage = self.node.status()["Storage"]
            before, age = age, storage["Transfer"]["ReportAgeSeconds"]
            if storage["Counters"] != last:
                last, quiet = storage["Counters"], 0
            elif age < before:  # another report
                quiet += 1
            return quiet == QUIET_REPORTS

        wait_until(is_settled, 30, "downloads have ended")
        return last


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, dict[str, str]]]:
    """A node whose studies are only in S3, by name."""
    folder = tmp_path_factory.mktemp("far")
    s3 = DistantS3(folder / "s3.log")
    node = Node(folder, cast("S3Server", s3)).start()
    studies = {}
    for name in STUDIES:
        uid = generate_uid()
        for number in range(SERIES):
            folder = tmp_path_factory.mktemp(name) / str(number)
            for path in write_series(folder, IMAGES, study=uid, side=SIDE):
                studies[name] = json.loads(node.orthanc.post("/instances", path.read_bytes()))["ParentStudy"]
    node.wait_until_uploaded()
    node.stop()
    node.set_aside("spool", "cache")
    s3.move(LATENCY)
    node.start()
    yield node, studies
    node.close()
    s3.stop()


@pytest.fixture
def study(archive: tuple[Node, dict[str, str]]) -> Callable[[str], Study]:
    node, studies = archive
    return lambda name: Study(node, studies[name])


@contextmanager
def at_distance(node: Node, latency: float) -> Iterator[None]:
    """Meanwhile S3 is so far away."""
    s3 = cast("DistantS3", node.s3)
    s3.move(latency)
    yield
    s3.move(LATENCY)


def test_an_archive_finds_most_images_in_the_cache(study: Callable[[str], Study]) -> None:
    """Each is downloaded once, nothing in vain, and the reader waits for a few only.

    Several threads wait for three each: they ask as early as it is fetched until the window is wider than they are.
    """
    one = study("archive")
    with at_distance(one.node, FAR):
        one.node.orthanc.get(f"/studies/{one.id}/archive")
    counted = one.settled()
    assert counted["downloads"] == SERIES * IMAGES
    few = 3 * THREADS if "Performance" in one.node.orthanc.get_json("/system") else 4
    assert counted["ahead_downloads"] >= SERIES * IMAGES - few
    assert counted["ahead_reads"] == counted["ahead_downloads"]


def test_a_retrieve_request_downloads_ahead_and_asks_orthanc_for_no_file(
    study: Callable[[str], Study], tmp_path: Path
) -> None:
    """C-MOVE and C-GET take the files from the transfer process, which knows in advance what they will send."""
    one = study("get")
    uid = one.node.orthanc.get_json(f"/studies/{one.id}")["MainDicomTags"]["StudyInstanceUID"]
    answer = one.node.peer.get(tmp_path, "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uid}")
    assert answer.exit_code == 0, answer.output
    received = {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in tmp_path.iterdir()}
    assert len(received) == SERIES * IMAGES
    counted = one.settled()
    assert counted["downloads"] == SERIES * IMAGES
    assert counted["ahead_downloads"] > SERIES * IMAGES // 2
    assert (counted["reads_s3"], counted["reads_cache"], counted["reads_spool"]) == (0, 0, 0)
    for instance in one.instances(0) + one.instances(1):
        stored = dcmread(io.BytesIO(one.node.file(instance)))
        assert received[stored.SOPInstanceUID] == stored.PixelData


def test_a_single_read_fetches_nothing_else(study: Callable[[str], Study]) -> None:
    one = study("single")
    one.node.file(one.instances(0)[5])
    counted = one.settled()
    assert (counted["downloads"], counted["ahead_downloads"]) == (1, 0)


def test_a_loop_that_stops_has_fetched_a_window_in_vain_at_most(study: Callable[[str], Study]) -> None:
    one = study("loop")
    for instance in one.instances(0)[:8]:
        one.node.file(instance)
        time.sleep(0.05)  # a reader that works with what it reads
    counted = one.settled()
    assert 8 <= counted["downloads"] <= 8 + 12


def test_eight_readers_of_one_series_do_not_multiply_its_downloads(study: Callable[[str], Study]) -> None:
    one = study("eight")
    instances = one.instances(0) + one.instances(1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one.node.file, instances))
    assert one.settled()["downloads"] == SERIES * IMAGES


def test_heads_of_files_are_read_ahead_too(study: Callable[[str], Study]) -> None:
    """Orthanc 1.10.1 goes through them from the last to the first."""
    one = study("tags")
    if "dicom-until-pixel-data" not in one.node.attachments_of_an_image():
        pytest.skip("this Orthanc keeps no heads")
    one.node.orthanc.get_json(f"/series/{one.series[0]}/instances-tags")
    counted = one.settled()
    assert counted["ahead_reads"] >= IMAGES // 2
    assert IMAGES <= counted["downloads"] <= SERIES * IMAGES
    assert counted["download_bytes"] < IMAGES * SIDE * SIDE


def prefetch(node: Node, resources: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(node.orthanc.post("/isen/prefetch", json.dumps(resources).encode()))
    return answer


def test_a_study_can_be_prefetched(study: Callable[[str], Study]) -> None:
    one = study("prefetch")
    unknown = "-".join(["00000000"] * 5)
    answer = prefetch(one.node, [one.id, unknown, one.id])
    assert (answer["Accepted"], answer["Refused"]) == (2, 0)
    counted = one.settled()
    kinds = len(one.node.attachments_of_an_image())
    assert counted["downloads"] == counted["ahead_downloads"] == SERIES * IMAGES * kinds
    state = one.node.orthanc.get_json("/isen/prefetch")
    assert state["QueuedResources"] == state["Attachments"]["UnderWay"] == 0
    assert state["UnknownResources"] == 1
    assert state["Attachments"]["Fetched"] == SERIES * IMAGES * kinds
    assert state["UnreadBytes"] > SERIES * IMAGES * SIDE * SIDE * 2
    one.node.orthanc.get(f"/studies/{one.id}/archive")
    counted = one.settled()
    assert counted["downloads"] == SERIES * IMAGES * kinds, "nothing was downloaded again"
    assert counted["ahead_reads"] == SERIES * IMAGES


def test_a_prefetch_can_be_cancelled(study: Callable[[str], Study]) -> None:
    one = study("cancelled")
    instances = one.instances(0) + one.instances(1)
    prefetch(one.node, {"Resources": instances})
    one.node.orthanc.delete("/isen/prefetch")
    assert one.node.orthanc.get_json("/isen/prefetch")["QueuedResources"] <= 1
    counted = one.settled()
    assert counted["downloads"] < len(instances) * len(one.node.attachments_of_an_image())
    assert one.node.orthanc.get_json("/isen/prefetch")["Attachments"]["UnderWay"] == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", HTTPStatus.BAD_REQUEST),
        (b"[" * 100_000, HTTPStatus.BAD_REQUEST),
        (b'"x"', HTTPStatus.BAD_REQUEST),
        (b'["../x"]', HTTPStatus.BAD_REQUEST),
        (b'{"Resources": 1}', HTTPStatus.BAD_REQUEST),
        (json.dumps([f"{n:08x}" + "-00000000" * 4 for n in range(1001)]).encode(), HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    ],
)
def test_a_bad_request_gets_its_status(archive: tuple[Node, dict[str, str]], body: bytes, status: int) -> None:
    node, _ = archive
    with pytest.raises(HTTPError) as raised:
        node.orthanc.post("/isen/prefetch", body)
    assert raised.value.code == status
