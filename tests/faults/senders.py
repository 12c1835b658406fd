"""Senders that note what was acknowledged, and whether it can be read back."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from itertools import count, islice

from scp.upper_layer.associate import ContextProposal
from tests.bench.images import SMALL, Size, encoded
from tests.fakes.raw_peer import CT, EXPLICIT, ID, RawPeer
from tests.integration.harness import Node, sop_instance_uid

BURST = 20  # images over one connection
SERIES = 100  # images of one study
READERS = 8


def data_set(content: bytes) -> bytes:
    """A Part 10 file without preamble and file meta information."""
    (length,) = struct.unpack_from("<L", content, 140)  # (0002,0000) comes first, PS3.10 7.1
    return content[144 + length :]


@dataclass(frozen=True)
class Answer:
    """What became of one C-STORE."""

    at: float  # monotonic, when it was answered
    status: int
    seconds: float  # until then


class Senders:
    """Threads that store new images until they are stopped, each image again until it is acknowledged."""

    def __init__(
        self, node: Node, kinds: Sequence[str] = ("http", "http", "dicom", "dicom"), *, size: Size = SMALL, pause: float
    ) -> None:
        """`pause` is in seconds, between two images of one sender."""
        self.acknowledged: dict[str, bytes] = {}  # SOPInstanceUID → SHA-256 of the data set
        self.attempts = 0
        self.answers: list[Answer] = []  # over DICOM
        self.pause = pause
        self._node = node
        self._size = size
        self._numbers = count(1)
        self._stopped = threading.Event()
        sends = {"http": self._http, "dicom": self._dicom}
        self._threads = [threading.Thread(target=self._run, args=(sends[kind],)) for kind in kinds]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    def _run(self, send: Callable[[Iterator[bytes]], None]) -> None:
        images = self._images()
        while not self._stopped.is_set():
            try:
                send(islice(images, BURST))
            except (OSError, HTTPException, AssertionError):  # the other side was killed, or is not up again
                self._stopped.wait(0.05)

    def _images(self) -> Iterator[bytes]:
        while not self._stopped.is_set():
            number = next(self._numbers)
            content = b"".join(encoded(self._size, 1 + number // SERIES, number))
            uid = sop_instance_uid(content)
            while uid not in self.acknowledged and not self._stopped.is_set():
                self.attempts += 1
                yield content
                self._stopped.wait(self.pause)

    def _acknowledge(self, content: bytes) -> None:
        self.acknowledged[sop_instance_uid(content)] = sha256(data_set(content)).digest()

    def _http(self, images: Iterator[bytes]) -> None:
        for content in images:
            answer = json.loads(self._node.orthanc.post("/instances", content))
            if answer["Status"] in ("Success", "AlreadyStored"):
                self._acknowledge(content)

    def _dicom(self, images: Iterator[bytes]) -> None:
        with RawPeer(self._node.orthanc.dicom_port) as peer:
            peer.established(contexts=[ContextProposal(ID[CT], CT, (EXPLICIT,))], called="ORTHANC")
            for content in images:
                began = time.monotonic()
                status = peer.store(data_set(content), sop_instance_uid(content))["Status"]
                self.answers.append(Answer(time.monotonic(), status, time.monotonic() - began))
                if status == 0:
                    self._acknowledge(content)
            peer.release()


def assert_all_is_there(node: Node, acknowledged: dict[str, bytes]) -> None:
    """Every acknowledged instance is in the index, and what is read is what was sent."""
    with ThreadPoolExecutor(READERS) as pool:
        files = pool.map(node.file, node.instances())
        found = {sop_instance_uid(content): sha256(data_set(content)).digest() for content in files}
    lost = acknowledged.keys() - found.keys()
    altered = [uid for uid, digest in acknowledged.items() if found.get(uid, digest) != digest]
    assert not lost, f"{len(lost)} of {len(acknowledged)} are lost: {sorted(lost)[:5]}"
    assert not altered, f"{len(altered)} of {len(acknowledged)} are altered: {sorted(altered)[:5]}"
