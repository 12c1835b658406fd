"""What a callback costs in Orthanc's interpreter: Python makes itself no new state of a thread that it knows."""

from __future__ import annotations

from pathlib import Path

from tests.integration.harness import REMEMBERING, NodeMaker

THREADS = 4
IMAGES = 40


def test_python_knows_the_threads_that_store_images(make_node: NodeMaker, thumbnails: list[Path]) -> None:
    """Orthanc's threads for HTTP live as long as it does: they come with dozens of callbacks each, not with one."""
    node = make_node({**REMEMBERING, "HttpThreadsCount": THREADS}).start()
    node.orthanc.post("/instances", thumbnails[0].read_bytes())
    for _ in range(IMAGES):
        node.orthanc.delete(f"/instances/{node.instances()[0]}")
        node.orthanc.post("/instances", thumbnails[0].read_bytes())
    assert node.orthanc.get_json("/test/remembered") >= IMAGES / THREADS
