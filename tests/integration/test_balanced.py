"""The scaled-out stack of docker/compose.scale.yml without containers: HAProxy with its configuration, two front ends,
two Orthancs over one PostgreSQL index and one bucket.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from backend.stack.dcmtk import Peer
from backend.stack.orthanc import merged
from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from tests.integration.front_end import STORAGE_ONLY, FrontEnd, log_in
from tests.integration.harness import Node, NodeMaker
from tests.servers.postgresql import INDEX_PLUGIN, PostgreSql, PostgreSqlUnavailable

CONFIGURATION = Path(__file__).parents[2] / "docker" / "haproxy.cfg"


@pytest.fixture
def nodes(make_node: NodeMaker) -> Iterator[list[Node]]:
    """Two Orthancs that are one archive."""
    try:
        postgresql = PostgreSql()
    except PostgreSqlUnavailable as reason:
        pytest.skip(str(reason))
    changes = merged(STORAGE_ONLY, {"Isen": {"Storage": {"Durability": "ObjectStore"}}})
    nodes = [make_node(changes), make_node(changes)]
    for node in nodes:
        settings = node.orthanc.settings
        settings["Isen"]["Storage"]["BucketName"] = node.bucket = nodes[0].bucket
        settings["Plugins"].append(str(INDEX_PLUGIN))
        settings["PostgreSQL"] = postgresql.options
        settings["DatabaseServerIdentifier"] = node.orthanc.mark
        log_in(node)
        node.start()
    yield nodes
    for node in nodes:
        node.stop()
    postgresql.stop()


@pytest.fixture
def front_ends(nodes: list[Node], tmp_path: Path) -> Iterator[list[FrontEnd]]:
    urls = [node.orthanc.url for node in nodes]
    front_ends = [FrontEnd(tmp_path / f"front-end-{number}", *urls) for number in (1, 2)]
    for front_end in front_ends:
        front_end.wait_until_ready()
    yield front_ends
    for front_end in front_ends:
        front_end.stop()


@pytest.fixture
def balancer(front_ends: list[FrontEnd], nodes: list[Node], tmp_path: Path) -> Iterator[Peer]:
    """HAProxy before them, as a DICOM server."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("HAProxy is not installed")
    dicom_port, http_port = free_port(), free_port()
    text = CONFIGURATION.read_text()
    for number, front_end in enumerate(front_ends, 1):
        server = f"127.0.0.1:{front_end.dicom_port} port {front_end.health_port}"
        text = text.replace(f"front-end-{number}:4242", server)
    for number, node in enumerate(nodes, 1):
        text = text.replace(f"orthanc-{number}:8042", node.orthanc.url.removeprefix("http://"))
    text = text.replace("bind :4242", f"bind 127.0.0.1:{dicom_port}").replace(
        "bind :8042", f"bind 127.0.0.1:{http_port}"
    )
    text = re.sub(r"^resolvers docker\n.*?\n\n", "", text, flags=re.DOTALL | re.MULTILINE).replace(
        " resolvers docker", ""
    )
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    checked = subprocess.run([program, "-c", "-f", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = Process([program, "-f", path], tmp_path / "haproxy.log")
    peer = Peer(dicom_port)
    wait_until(lambda: peer.echo().exit_code == 0, 20, "a front end answers behind HAProxy")
    yield peer
    process.stop()


@pytest.mark.timeout(240)
def test_a_front_end_and_an_orthanc_are_killed_and_nothing_acknowledged_is_missing(
    nodes: list[Node], front_ends: list[FrontEnd], balancer: Peer, ten: list[Path], thumbnails: list[Path]
) -> None:
    """HAProxy sends this machine's associations to one front end: the one that dies."""
    assert balancer.store(*ten[:5]).exit_code == 0
    wait_until(lambda: sorted(front_end.stores() for front_end in front_ends) == [0, 5], 20, "one has served all five")
    busy = max(front_ends, key=lambda front_end: front_end.stores())
    busy.process.kill()
    (other,) = (front_end for front_end in front_ends if front_end is not busy)
    wait_until(lambda: balancer.store(*ten[5:]).exit_code == 0, 30, "the other front end has taken over")
    wait_until(lambda: other.stores() >= 5, 20, "the other says so")

    nodes[0].orthanc.kill()
    for path in thumbnails:  # over several associations, so that every worker has to find the other Orthanc
        assert balancer.store(path).exit_code == 0
    sent = {str(image.SOPInstanceUID): image.PixelData for image in map(dcmread, [*ten, *thumbnails])}
    study = str(dcmread(ten[0]).StudyInstanceUID)
    found = balancer.find("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}", "NumberOfStudyRelatedInstances")
    assert [int(answer.NumberOfStudyRelatedInstances) for answer in found.data_sets] == [10]

    nodes[0].wait_for_the_end()
    nodes[0].set_aside("spool", "cache")
    nodes[0].start()
    for node in nodes:  # durable in S3, not only where it arrived
        kept = {str(image.SOPInstanceUID): image.PixelData for image in files(node)}
        assert kept == sent


def files(node: Node) -> list[Dataset]:
    """Every image of the archive, as this node hands it out."""
    return [dcmread(BytesIO(node.file(instance))) for instance in node.instances()]
