"""Folders of a later Isen are refused before anything in them is touched; those without a version are adopted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from config.folder_format import FILE, formats
from tests.fakes.images import write_series
from tests.integration.archive import run_isen, store_images
from tests.integration.harness import Node, NodeMaker
from tests.integration.test_start_refused import refusal

pytestmark = pytest.mark.timeout(240)


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Path → content and time of the last change, of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def folders(node: Node) -> dict[str, Path]:
    """Kind → folder."""
    return {kind.kind: folder for folder, kind in formats(node.folder / "spool", node.folder / "cache").items()}


def test_a_later_format_stops_the_start_and_nothing_is_changed(make_node: NodeMaker, tmp_path: Path) -> None:
    node = make_node().start()
    store_images(node, tmp_path / "images", 2)
    node.stop()
    (node.folder / "spool" / "incoming" / "00000000-0000-4000-8000-000000000000.dcm").write_bytes(b"swept otherwise")
    for kind, folder in folders(node).items():
        assert (folder / FILE).read_text() == f"isen {kind} 1\n"
        (folder / FILE).write_text(f"isen {kind} 2\n")
        before = [tree(node.folder / name) for name in ("spool", "cache")]
        said = refusal(node)
        assert f"{folder} is of a later Isen (format 2 of the {kind}; this one knows 1): run that version, or " in said
        assert [tree(node.folder / name) for name in ("spool", "cache")] == before
        tool = run_isen("verify", str(node.folder / "orthanc.json"))
        assert (tool.returncode, str(folder) in tool.stderr) == (2, True)
        assert run_isen("check", str(node.folder / "orthanc.json")).returncode == 1
        (folder / FILE).write_text(f"isen {kind} 1\n")
    node.start()


def test_folders_without_a_version_are_adopted_with_what_they_hold(make_node: NodeMaker, tmp_path: Path) -> None:
    """As 0.1.0 has left them."""
    node = make_node(gated=True).start()
    assert node.gate
    node.gate.refuse()
    stored = write_series(tmp_path / "image", 1, side=64)[0].read_bytes()
    node.orthanc.post("/instances", stored)
    node.orthanc.kill()
    node.wait_for_the_end()
    for folder in folders(node).values():
        (folder / FILE).unlink(missing_ok=True)
    assert node.pending()
    node.gate.open()
    node.start()
    node.wait_until_uploaded()
    assert stored in node.images_in_bucket().values()
    for kind, folder in folders(node).items():
        assert (folder / FILE).read_text() == f"isen {kind} 1\n"


def test_swapped_folders_are_noticed(make_node: NodeMaker) -> None:
    node = make_node().start()
    node.stop()
    storage = node.orthanc.settings["Isen"]["Storage"]
    storage["SpoolDirectory"], storage["CacheDirectory"] = storage["CacheDirectory"], storage["SpoolDirectory"]
    assert "holds Isen's cache, not its spool; have two folders been mixed up?" in refusal(node)


def test_a_worklist_database_of_a_later_isen_is_refused(make_node: NodeMaker, tmp_path: Path) -> None:
    managed = tmp_path / "managed"
    node = make_node({"Isen": {"Worklists": {"ManagedDirectory": str(managed)}}}).start()
    node.stop()
    with sqlite3.connect(managed / "worklists.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = (managed / "worklists.sqlite").read_bytes()
    said = refusal(node)
    assert "Isen.Worklists.ManagedDirectory: worklists.sqlite is of a later Isen (version 99 " in said
    assert (managed / "worklists.sqlite").read_bytes() == before
