"""Trials of `isen check` whose failures cannot be made with real servers and the rights of root."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from backend.cli import bucket, folders, network
from backend.cli.outcome import Outcome, Verdict
from backend.transfer.object_store.errors import AccessDenied
from config.settings import (
    MEGABYTE,
    DicomSettings,
    OrthancSettings,
    Settings,
    StorageSettings,
    TlsSettings,
    WorklistSettings,
)
from tests.fakes.memory_object_store import MemoryObjectStore


@pytest.fixture
def storage(tmp_path: Path) -> StorageSettings:
    return StorageSettings(
        bucket_name="dicom",
        region="us-east-1",
        endpoint="http://127.0.0.1:1",
        root_path="images",
        spool_directory=tmp_path / "spool",
        maximum_spool_size=MEGABYTE,
        allow_volatile_spool=True,
        cache_directory=tmp_path / "cache",
        maximum_cache_size=MEGABYTE,
    )


def settings(storage: StorageSettings, **more: Any) -> Settings:
    return Settings(python=Path("/bin/false"), storage=storage, **more)


def only(outcomes: Any, check: str) -> Outcome:
    (found,) = [outcome for outcome in outcomes if outcome.check == check]
    assert isinstance(found, Outcome)
    return found


class TestBucket:
    """A store in memory, with one operation broken."""

    def test_a_refused_delete_is_found(self, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        class Undeletable(MemoryObjectStore):
            def delete(self, key: str) -> NoReturn:
                assert key.startswith("images/isen-check-"), "below RootPath, where alone the credentials may reach"
                raise AccessDenied("DeleteObject was answered 403")

        monkeypatch.setattr(bucket, "open_object_store", lambda *_, **__: Undeletable())
        outcome = bucket.check(storage)
        assert (outcome.verdict, outcome.found) == (Verdict.FAILED, "DeleteObject was answered 403")

    def test_other_bytes_than_were_put_are_found(
        self, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Forgetful(MemoryObjectStore):
            @contextmanager
            def get(self, key: str) -> Any:
                with super().get(key) as found:
                    yield type("Wrong", (), {"attributes": found.attributes, "chunks": lambda _: iter([b"other"])})()

        store = Forgetful()
        monkeypatch.setattr(bucket, "open_object_store", lambda *_, **__: store)
        outcome = bucket.check(storage)
        assert outcome.verdict is Verdict.FAILED
        assert "gave other bytes" in outcome.found
        assert list(store.list("")) == [], "the object is removed all the same"


class TestFolders:
    def test_what_spool_and_cache_hold_already_needs_no_space(
        self, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = type("Usage", (), {"free": MEGABYTE + 1})()
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        assert only(folders.check(settings(storage)), "Free space").verdict is Verdict.WARNING
        (storage.spool_directory / "pending").mkdir(parents=True)
        (storage.spool_directory / "pending" / "image").write_bytes(bytes(MEGABYTE))
        assert only(folders.check(settings(storage)), "Free space").verdict is Verdict.PASSED

    def test_worklists_that_cannot_be_read(
        self, storage: StorageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a.wl", "b.wl", "notes.txt"):
            (tmp_path / name).touch()
        chosen = settings(storage, worklists=WorklistSettings(directory=tmp_path))
        assert only(folders.check(chosen), "Worklist folder").found == f"{tmp_path} holds 2 *.wl files"
        readable = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b.wl" and readable(path, mode))
        assert "1 of 2 *.wl files" in only(folders.check(chosen), "Worklist folder").found

    def test_a_worklist_folder_that_is_a_file(self, storage: StorageSettings, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        chosen = settings(storage, worklists=WorklistSettings(directory=tmp_path / "file"))
        assert "cannot be listed" in only(folders.check(chosen), "Worklist folder").found


class TestPorts:
    @pytest.mark.parametrize(
        ("number", "sentence"),
        [(errno.EACCES, "choose a port from 1024 on"), (errno.EADDRNOTAVAIL, "cannot be listened on")],
    )
    def test_that_may_not_be_used(
        self, storage: StorageSettings, number: int, sentence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> NoReturn:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(socket.socket, "bind", refuse)
        outcome = only(network.check(settings(storage), {}), "DICOM port")
        assert outcome.verdict is Verdict.FAILED
        assert sentence in outcome.found

    def test_held_by_a_user_who_hides_it(self, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(network, "listener", lambda _: None)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            chosen = settings(storage, orthanc=OrthancSettings(url=f"http://127.0.0.1:{port}"))
            outcome = only(network.check(chosen, {}), "HTTP port")
        assert outcome.found.startswith(f"HttpPort: {port} is taken by a process of another user")


def test_ciphers_openssl_does_not_know_are_found(
    storage: StorageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_pair", lambda *_: Outcome("DICOM certificates", Verdict.PASSED, ""))
    for cipher, verdict in (("ECDHE-RSA-AES256-GCM-SHA384", Verdict.PASSED), ("ROT13", Verdict.FAILED)):
        tls = TlsSettings(certificate=tmp_path, private_key=tmp_path, ciphers_accepted=(cipher,))
        chosen = settings(storage, dicom=DicomSettings(tls=tls))
        assert only(network.check(chosen, {}), "DICOM certificates").verdict is verdict
