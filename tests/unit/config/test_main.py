"""`python -m config`, as the plugin runs it: a process of its own, one JSON object in, one out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from tests.unit.config.samples import GOOD, SECRET, Removed, accepted, changed

ROOT = Path(__file__).parents[3]


def run(content: str) -> tuple[int, dict[str, Any], str]:
    process = subprocess.run(
        [sys.executable, "-m", "config"], input=content.encode(), capture_output=True, cwd=ROOT, timeout=60, check=False
    )
    return process.returncode, json.loads(process.stdout), process.stderr.decode()


@pytest.mark.parametrize("envelope", [False, True])
def test_a_good_configuration_is_answered_with_the_settings(envelope: bool) -> None:
    code, answer, errors = run(
        json.dumps({"Configuration": GOOD, "Capabilities": {"StorageApi": 1}} if envelope else GOOD)
    )
    assert code == 0
    assert answer.keys() == {"Settings", "Warnings"}
    assert Settings.model_validate(answer["Settings"]) == accepted(GOOD).settings
    assert errors == ""


def test_a_wrong_one_with_every_mistake_and_its_path() -> None:
    configuration = changed("Isen.Storage.Region", Removed, changed("Isen.Storage.Durability", SECRET))
    code, answer, errors = run(json.dumps(configuration))
    assert code == 78
    assert answer.keys() == {"Errors", "Warnings"}
    assert [error["Path"] for error in answer["Errors"]] == ["Isen.Storage.Region", "Isen.Storage.Durability"]
    assert all(error["Message"] for error in answer["Errors"])
    assert SECRET not in json.dumps(answer) + errors


def test_capabilities_count() -> None:
    code, answer, _ = run(json.dumps({"Configuration": GOOD, "Capabilities": {"AllowThreads": True, "StorageApi": 3}}))
    assert code == 78
    assert [error["Path"] for error in answer["Errors"]] == ["Python.AllowThreads"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"Configuration": null}', '{"Configuration": 5, "Capabilities": 5}']
)
def test_nonsense_is_refused_in_the_same_form(content: str) -> None:
    code, answer, errors = run(content)
    assert code == 78
    assert answer["Errors"]
    assert errors == ""


def test_it_loads_no_large_library() -> None:
    """Orthanc waits for it at every start."""
    script = (
        "import sys, config.__main__; print([name for name in ('boto3', 'botocore', 'pynetdicom', 'pydicom', 'rich', "
        "'typer', 'urllib3') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, timeout=60, check=True)
    assert process.stdout == b"[]\n"
