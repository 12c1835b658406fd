"""The check of removals and the repair after a power cut, put together: nothing happens before Orthanc answers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import pytest

from backend.maintenance.rest import OrthancUnavailable
from backend.stack.processes import wait_until
from backend.storage_directory import StorageDirectory
from backend.transfer.availability import ObservedObjectStore
from backend.transfer.dicom_header import sop_instance_uid
from backend.transfer.index_guard import IndexGuard, Orthanc
from config.settings import OrthancSettings, StorageSettings
from tests.fakes.images import made_up_ct
from tests.fakes.transfer_child import name_of
from tests.unit.backend.transfer.conftest import Parts
from tests.unit.backend.transfer.fake_index import FakeIndex

NAME = name_of(1)
MADE_BY_ORTHANC = name_of(1001)  # by `FakeIndex`, when an image is posted


def image() -> bytes:
    buffer = BytesIO()
    made_up_ct("1.2.3", "1.2.3.4", 1, side=16).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


class Guarded:
    """Parts whose removals are guarded by an index."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts = Parts(folder)
        self.index = FakeIndex()
        self.woken = 0
        self.storage_directory: Path | None = None  # with HybridMode
        self.is_builtin = threading.Event()
        monkeypatch.setattr(Orthanc, "index", lambda *_, **__: self.index)

    def start(self) -> IndexGuard:
        """The transfer process starts; Orthanc does not answer yet."""
        parts = self.parts
        parts.removals.refresh(set(os.listdir(parts.file("tombstones", ""))))
        settings = StorageSettings.model_validate(
            {
                "BucketName": "bucket",
                "Region": "r",
                "SpoolDirectory": parts.spool.directory,
                "CacheDirectory": parts.folder / "cache",
                "StorageDirectory": self.storage_directory,
            }
        )
        return IndexGuard(
            settings,
            Orthanc(OrthancSettings(), "token", time.time() - 10),
            parts.remover,
            parts.removals,
            reads=ObservedObjectStore(parts.store, parts.availability),
            key=str,
            kept=(parts.uploaded, parts.removed),
            counters=parts.counters,
            put=parts.good_copies.put,
            wake=self.wake,
            on_builtin=self.is_builtin.set,
        )

    def wake(self) -> None:
        self.woken += 1

    def is_buried(self, name: str = NAME) -> bool:
        return self.parts.file("tombstones", name).exists()


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    return Guarded(tmp_path, monkeypatch)


def test_a_removal_waits_until_orthanc_answers(guarded: Guarded) -> None:
    guarded.parts.spool.accept(NAME, image())
    guarded.parts.spool.bury(NAME)
    guard = guarded.start()
    guarded.parts.remove_due()
    assert guarded.parts.file("pending", NAME).exists()
    assert guarded.index.questions == 0
    guard.start()
    guarded.parts.remove_due()
    assert not guarded.parts.file("pending", NAME).exists()
    assert not guarded.is_buried()
    assert guard.report()["State"] == "NotNeeded"


def test_once_orthanc_ends_nothing_is_decided_any_more(guarded: Guarded) -> None:
    guard = guarded.start()
    guard.start()
    guard.stop()
    assert (guarded.parts.spool.directory / "running").exists(), "Orthanc may store still, or again"
    guarded.parts.spool.accept(NAME, image())
    guarded.parts.spool.bury(NAME)
    guarded.parts.removals.refresh({NAME})
    guarded.parts.remove_due()
    assert guarded.parts.file("pending", NAME).exists()


def test_a_removal_that_the_index_takes_back_wakes_the_uploads(guarded: Guarded) -> None:
    data_set = made_up_ct("1.2.3", "1.2.3.4", 1, side=16)
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    guarded.parts.spool.accept(NAME, buffer.getvalue())
    guarded.parts.spool.bury(NAME)
    guarded.index.add(str(data_set.SOPInstanceUID), NAME)
    guard = guarded.start()
    guard.start()
    guarded.parts.remove_due()
    assert not guarded.is_buried()
    assert guarded.woken == 1


@pytest.mark.parametrize("place", ["pending", "storage directory"])
@pytest.mark.parametrize("is_lost", [False, True])
def test_what_the_index_refers_to_may_be_in_orthancs_own_folder_and_so_may_its_duplicate(
    guarded: Guarded, tmp_path: Path, place: str, *, is_lost: bool
) -> None:
    """HybridMode."""
    content, kept = image(), name_of(9)
    folder = StorageDirectory(tmp_path / "storage")
    folder.recover()
    guarded.storage_directory = folder.directory
    if not is_lost:
        folder.write(kept, content, sha256(content).digest())
    if place == "pending":
        guarded.parts.spool.accept(NAME, content)
    else:
        folder.write(NAME, content, sha256(content).digest())
    guarded.index.add(sop_instance_uid(BytesIO(content)) or "", kept)
    guarded.index.described[kept] = len(content), md5(content, usedforsecurity=False).hexdigest()
    guarded.parts.spool.bury(NAME)
    guarded.start().start()
    guarded.parts.remove_due()
    assert not guarded.is_buried()
    assert guarded.parts.store.keys() == ([kept] if is_lost else [])


@pytest.mark.parametrize("place", ["pending", "uploaded", "bucket", "nowhere"])
def test_after_a_power_cut_a_row_comes_back_and_the_old_bytes_go_once_the_new_are_safe(
    guarded: Guarded, place: str
) -> None:
    guarded.parts.spool.accept(NAME, image())
    (guarded.parts.spool.directory / "running").write_text("another boot")
    guard = guarded.start()
    assert guard.report() == {"State": "Waiting", "Stored": 1, "Removed": 0, "Undecided": 0}
    if place == "bucket":
        guarded.parts.store.put_foreign(MADE_BY_ORTHANC, image())
    elif place != "nowhere":
        guarded.parts.file(place, MADE_BY_ORTHANC).write_bytes(image())
    guard.start()
    wait_until(lambda: guard.report()["State"] == "Done", 20, "it is repaired")
    assert len(guarded.index.posted) == 1
    assert guarded.is_buried() == (place != "nowhere")


def test_it_is_told_that_the_index_is_orthancs_own_once_orthanc_says_so(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.transfer.index_guard.back_off", lambda *_, **__: 0.01)
    guarded.index.kind_failures = [OrthancUnavailable("it starts"), OrthancUnavailable("it starts")]
    guard = guarded.start()
    assert not guarded.is_builtin.wait(0.1), "Orthanc does not answer yet"
    guard.start()
    assert guarded.is_builtin.wait(20)
    assert guarded.index.kind_failures == []


def test_it_is_not_told_so_of_a_database_server(guarded: Guarded) -> None:
    guarded.index.builtin = False
    guarded.start().start()
    wait_until(lambda: all(thread.name != "index-kind" for thread in threading.enumerate()), 20, "it has been asked")
    assert not guarded.is_builtin.is_set()


@pytest.fixture
def asked() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """The address of an Orthanc without instances, and path and token of what it is asked."""
    requests: list[tuple[str, str | None]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers.get("Authorization")))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_orthanc_is_asked_with_the_token_which_is_not_shown(
    asked: tuple[str, list[tuple[str, str | None]]],
) -> None:
    url, requests = asked
    orthanc = Orthanc(OrthancSettings(url=url), "Bearer secret", 0.0)
    assert [found for _, found in orthanc.index(legacy=False).attachments() if found] == []
    assert requests
    assert {token for _, token in requests} == {"Bearer secret"}
    assert "secret" not in repr(orthanc)
