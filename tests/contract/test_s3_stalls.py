"""One download that stalls holds up no other, although one thread goes on with many, each as its answer comes.

A real server over HTTP, and all that fetches ahead from it, with a single thread for those that wait for answers.
"""

from __future__ import annotations

import os
import socket
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backend.spool import Spool
from backend.stack.processes import wait_until
from backend.transfer.availability import Availability, ObservedObjectStore
from backend.transfer.counters import Counters
from backend.transfer.download_slots import Priority
from backend.transfer.fetcher import Fetcher
from backend.transfer.name_locks import NameLocks
from backend.transfer.object_store import s3_route
from backend.transfer.object_store.s3 import S3ObjectStore
from backend.transfer.prefetcher import Prefetcher
from backend.transfer.read_cache import ReadCache
from config.http.asked import LARGEST_AWAITED
from tests.contract.test_object_store import settings
from tests.fakes.s3_faults import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    Act,
    FakeS3,
    Handler,
    Stored,
    answer_after,
    drop,
    hang,
    say_and_hang,
    stall_at_half,
    trickle,
)

TIME_OUT = 6.0  # seconds; whoever stalls has them
SOON = 2.0  # seconds, in which everybody else is served
MOMENT = 0.2  # seconds, of which none is a time-out
SIZE = 900_000  # bytes, so that the kernel is to hold all of it until it is read
CONTENT = os.urandom(SIZE)
BEGUN_ERROR = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<?xml\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"


class Ahead:
    """What the transfer process makes of these settings to fetch ahead."""

    def __init__(self, fake: FakeS3, folder: Path, concurrent: int = 8, **options: object) -> None:
        self._fake = fake
        self._permission = threading.Event()
        counters, availability = Counters(), Availability()
        store = S3ObjectStore(
            settings(fake.url, BUCKET, RequestTimeout=TIME_OUT, ConnectTimeout=TIME_OUT, **options), concurrent
        )
        cache = ReadCache(folder / "cache", 1_000_000_000, counters)
        cache.recover()
        self.fetcher = Fetcher(
            Spool(folder / "spool", 1).directory,
            cache,
            ObservedObjectStore(store, availability),
            str,
            names=NameLocks(),
            availability=availability,
            counters=counters,
            concurrent=concurrent,
            patience=0,
            good_copy=lambda _: None,
        )
        self._prefetcher = Prefetcher(
            self.fetcher, cache, availability=availability, counters=counters, threads=concurrent
        )
        self._prefetcher.start()

    def submit(self, *acts: Act, content: bytes = CONTENT) -> str:
        """Have it fetched ahead; its requests meet these in turn."""
        name = f"{uuid.uuid4()}.dcm"
        self._fake.objects[name] = Stored(content)
        for act in acts:
            self._fake.add("GET", _a_moment_later(act), key=name)
        self._prefetcher.submit(name, len(content), Priority.SEND)
        return name

    def submit_healthy(self, content: bytes = CONTENT) -> str:
        """One whose answer is on its way, and comes with the next `served_in`."""
        name = self.submit(answer_after(self._permission), content=content)
        self.reach(name)
        return name

    def reach(self, name: str, requests: int = 1) -> None:
        wait_until(lambda: self._fake.requests.count(("GET", name)) == requests, 5, "S3 has been asked")

    def served_in(self, name: str) -> float:
        """Seconds between the answer of `submit_healthy` and its reader's having it."""
        time.sleep(3 * MOMENT)  # whatever is to stall has stalled
        self._permission.set()
        begun = time.monotonic()
        with open(self.fetcher.fetch(name), "rb") as file:
            assert file.read() == self._fake.objects[name].body
        return time.monotonic() - begun


def _a_moment_later(act: Act) -> Act:
    """When the thread for all answers waits for this one."""

    def wait_and_act(handler: Handler, body: bytes) -> bool:
        time.sleep(MOMENT)
        return act(handler, body)

    return wait_and_act


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.transfer.download_threads.busy_cores", lambda: 1)


@pytest.fixture
def ahead(fake: FakeS3, folder: Path) -> Ahead:
    return Ahead(fake, folder)


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an administrator has limited what a connection may hold: the kernel says that it has come before."""
    options = s3_route._socket_options
    limit = (socket.SOL_SOCKET, socket.SO_RCVBUF, SIZE // 4)
    monkeypatch.setattr(s3_route, "_socket_options", lambda request_timeout: [*options(request_timeout), limit])


@pytest.mark.parametrize(
    "acts",
    [(drop, hang), (say_and_hang(BEGUN_ERROR),), (say_and_hang(INTERIM),), (stall_at_half,), (trickle(b""),)],
    ids=["asked again", "an error that does not end", "an interim answer", "half of it", "a head that trickles"],
)
def test_others_are_served_while_an_answer_stalls(ahead: Ahead, acts: tuple[Act, ...]) -> None:
    healthy = ahead.submit_healthy()
    ahead.reach(ahead.submit(*acts), len(acts))
    assert ahead.served_in(healthy) < SOON


def test_others_are_served_if_the_kernel_cannot_hold_all_of_an_answer(
    fake: FakeS3, folder: Path, little_room: None
) -> None:
    ahead = Ahead(fake, folder)
    healthy = ahead.submit_healthy(b"small")
    ahead.reach(ahead.submit(stall_at_half))
    assert ahead.served_in(healthy) < SOON


@pytest.fixture
def credential_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a program that gives credentials, always again because they expire soon; slow if `slow` is there.

    botocore runs it in the thread that needs them.
    """
    soon = datetime.now(UTC) + timedelta(minutes=12)  # botocore renews from 15 on and waits for others from 10 on
    (folder / "program").write_text(
        textwrap.dedent(f"""
            import json, pathlib, time
            deadline = time.monotonic() + {TIME_OUT}
            while pathlib.Path({str(folder / "slow")!r}).exists() and time.monotonic() < deadline:
                pathlib.Path({str(folder / "asked")!r}).touch()
                time.sleep(0.05)
            print(json.dumps({{
                "Version": 1, "AccessKeyId": {ACCESS_KEY!r}, "SecretAccessKey": {SECRET_KEY!r},
                "Expiration": {soon.isoformat()!r},
            }}))
        """)
    )
    (folder / "config").write_text(f"[default]\ncredential_process = {sys.executable} -S {folder}/program\n")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    yield folder
    (folder / "slow").unlink(missing_ok=True)


def test_others_are_served_while_credentials_are_renewed(fake: FakeS3, folder: Path, credential_process: Path) -> None:
    ahead = Ahead(fake, folder, AccessKey=None, SecretKey=None)
    healthy = ahead.submit_healthy()
    (credential_process / "slow").touch()
    ahead.submit()
    wait_until((credential_process / "asked").exists, 5, "the credentials are being renewed")
    assert ahead.served_in(healthy) < SOON


def test_one_download_at_a_time_does_not_wait_for_the_next(
    fake: FakeS3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first needs the thread in which the second would wait for the first one's end."""
    monkeypatch.setattr("backend.transfer.download_threads.busy_cores", lambda: 3)
    ahead = Ahead(fake, folder, concurrent=1)
    first = ahead.submit_healthy(bytes(2 * LARGEST_AWAITED))
    second = ahead.submit()
    assert ahead.served_in(first) < SOON
    ahead.reach(second)
