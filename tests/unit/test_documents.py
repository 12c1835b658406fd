"""The documents name only what exists, and everything they promise to name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from config.orthanc_files import read_files

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONFORMANCE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "ENCRYPTION.md",
    "UPGRADING.md",
)
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
NO_DEFAULT = "\N{EN DASH}"


def example() -> dict[str, Any]:
    return read_files([ROOT / "config" / "orthanc.json"], {}).configuration


def options(section: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Path → value of every option below a section."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        path = f"{prefix}.{name}"
        found |= options(value, path) if value and isinstance(value, dict) else {path: value}
    return found


def table_rows() -> dict[str, str]:
    """Option → default of the README's table; a row may hold several of each."""
    rows: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`Isen\.[^|]+) \| ([^|]+) \|", README, re.MULTILINE):
        paths = re.findall(r"`([\w.]+)`", names)
        texts = [text.strip() for text in defaults.split(",")]
        rows |= dict(zip(paths, texts if len(texts) == len(paths) else texts * len(paths), strict=False))
    return rows


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / name).read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_is_named_exists(name: str) -> None:
    paths = re.findall(r"`((?:backend|config|docker|scp|tests)/[\w./-]*)`", (ROOT / name).read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_that_is_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = re.findall(r"(?:^    |`)make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_every_make_target_is_explained() -> None:
    for target in re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE):
        assert f"make {target}" in README


def test_the_table_of_options_is_that_of_the_commented_example() -> None:
    """An option whose default depends on the machine is a comment there."""
    text = (ROOT / "config" / "orthanc.json").read_text()
    commented = {path for path in table_rows() if f'// "{path.rpartition(".")[2]}":' in text}
    assert set(table_rows()) - commented == set(options(example()["Isen"], "Isen"))
    for option in re.findall(r'^    +// "(\w+)": [\d"]\S*,', text.split('"Isen": {')[1], re.MULTILINE):
        assert f".{option}`" in README or option in ("ct", "pacs"), option


def test_the_defaults_in_the_table_are_those_of_the_commented_example() -> None:
    rows = table_rows()
    for path, value in options(example()["Isen"], "Isen").items():
        if rows[path] == NO_DEFAULT:
            continue
        text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if value == "" else f"{value}"
        assert rows[path].strip("`") == (text.removesuffix(".0") if isinstance(value, float) else text), path


def test_the_version_is_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_option_of_orthanc_that_the_readme_names_is_known_to_us() -> None:
    paragraph = README.split("These options of Orthanc keep their meaning:")[1].split("\n\n")[0]
    source = "".join(path.read_text() for path in (ROOT / "config").rglob("*.py"))
    for option in re.findall(r"`(\w+)", paragraph):
        assert option in source, option
