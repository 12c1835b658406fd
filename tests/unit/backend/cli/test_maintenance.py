"""What the operators' tools print and how they end: tables for people, JSON and exit codes for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from backend.cli.__main__ import app
from backend.maintenance.rest import OrthancUnavailable
from backend.maintenance.set_up import Archive
from backend.transfer.object_store.errors import Unreachable
from tests.unit.backend.maintenance.fake_archive import FakeArchive

OLD = 2 * 86400.0
ORPHAN = "00000000-0000-4000-8000-00000000000"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeArchive:
    made = FakeArchive(tmp_path)

    def open_archive(*_: Any, storage_directory: Path | None = None, **__: Any) -> Archive:
        return made.with_storage_directory(storage_directory, is_hybrid=False) if storage_directory else made.archive

    for module in ("maintenance", "migration"):
        monkeypatch.setattr(f"backend.cli.{module}.open_archive", open_archive)
    monkeypatch.setattr("backend.maintenance.patience.back_off", lambda *_, **__: 0.0)
    return made


def isen(command: str, *arguments: str) -> Result:
    settle = ("--settle", "0") if command in ("verify", "repair") else ()
    return CliRunner().invoke(app, [command, "orthanc.json", *arguments, *settle], env={"COLUMNS": "200"})


def test_nothing_wrong(fake: FakeArchive) -> None:
    fake.stored(b"content")
    result = isen("verify")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "1 attachments in the index, 1 objects in the bucket, 0 in the spool, 0 read",
        "nothing is wrong",
    ]
    assert isen("repair", "--apply").exit_code == 0


def test_a_finding_is_a_line_and_an_exit_code(fake: FakeArchive) -> None:
    name = fake.rest.add(b"content")
    result = isen("verify")
    assert result.exit_code == 1
    assert f"missing {name} has no object" in result.output.replace("  ", " ")
    assert "1 missing" in result.output
    document = json.loads(isen("verify", "--json").output)
    assert document["Counts"]["Missing"] == 1
    assert [finding["Attachment"] for finding in document["Findings"]] == [name]


def test_many_findings_are_cut_in_the_table_but_not_in_json(fake: FakeArchive) -> None:
    for _ in range(60):
        fake.rest.add(b"content")
    output = isen("verify").output
    assert "… and 10 more" in output
    assert output.count("has no object") == 50
    assert len(json.loads(isen("verify", "--json").output)["Findings"]) == 60


def test_repair_says_what_it_would_do_then_does_it(fake: FakeArchive) -> None:
    name = fake.rest.add(b"content")
    fake.local("cache", name, b"content")
    dry = isen("repair")
    assert dry.exit_code == 1
    assert "upload" in dry.output
    assert "Nothing was changed" in dry.output
    done = isen("repair", "--apply")
    assert done.exit_code == 0
    assert "done" in done.output
    document = json.loads(isen("repair", "--json").output)
    assert (document["Applied"], document["Left"], document["Refusal"], document["Actions"]) == (False, 0, None, [])


def test_a_refusal_to_delete_is_told(fake: FakeArchive) -> None:
    fake.put(f"{ORPHAN}0.json", b"{}", age=OLD)
    result = isen("repair", "--apply")
    assert result.exit_code == 1
    assert "1 of 1 objects would be deleted" in result.output
    assert isen("repair", "--apply", "--maximum-share", "100").exit_code == 0


def test_where_shows_every_place(fake: FakeArchive) -> None:
    name = fake.stored(b"content")
    fake.local("pending", name, b"content")
    fake.local("cache", name, b"content")
    result = isen("where", next(iter(fake.rest.instances)))
    assert result.exit_code == 0
    for expected in ("pending", "cache", "bucket", "SHA-256", "7 bytes", "STANDARD"):
        assert expected in result.output
    fake.store.delete(name)
    assert isen("where", name.removesuffix(".dcm")).exit_code == 0  # it is on its way
    for place in ("pending", "cache"):
        (file,) = (fake.spool if place == "pending" else fake.cache).rglob(name)
        file.unlink()
    gone = isen("where", name.removesuffix(".dcm"))
    assert gone.exit_code == 1
    assert f"no object {name}" in gone.output
    assert isen("where", "nonsense").exit_code == 2
    assert isen("where", "-".join(["01234567"] * 5)).exit_code == 2


@pytest.mark.parametrize("as_json", [True, False])
def test_migrate_counts_both_ways(fake: FakeArchive, tmp_path: Path, as_json: bool) -> None:
    fake.stored(b"content")
    failing = fake.rest.add(b"missing")
    (tmp_path / "folder").mkdir()
    options = ["--storage-directory", str(tmp_path / "folder"), *(["--json"] if as_json else [])]
    for direction, expected in (([], {"present": 1, "failed": 1}), (["--back"], {"written": 1, "failed": 1})):
        result = isen("migrate", *options, *direction)
        assert result.exit_code == 1
        if as_json:
            document = json.loads(result.output)
            assert document["Counts"] == expected
            assert [failure["Attachment"] for failure in document["Failed"]] == [failing]
        else:
            assert ", ".join(f"{count} {name}" for name, count in expected.items()) in result.output or direction
            assert failing in result.output


@pytest.mark.parametrize(
    "error", [OrthancUnavailable("gone"), Unreachable("away"), OSError("disk"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("command", ["verify", "repair"])
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(
    fake: FakeArchive, monkeypatch: pytest.MonkeyPatch, error: BaseException, command: str
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("backend.maintenance.verification.Verification.run", fail)
    result = isen(command)
    assert result.exit_code == 2
    assert (str(error) or "interrupted") in result.output
    assert "Traceback" not in result.output


def test_a_wrong_configuration_is_78(tmp_path: Path) -> None:
    settings = tmp_path / "orthanc.json"
    settings.write_text("{}")
    assert CliRunner().invoke(app, ["verify", str(settings)]).exit_code == 78
