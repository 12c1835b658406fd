"""The import rules of ARCHITECTURE.md, enforced on the parsed source.

They keep every dependency out of Orthanc's interpreter and every library behind one door. Imports under
`if TYPE_CHECKING:` are never executed and therefore free.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("backend", "config", "scp")
MAY_IMPORT = {"config": {"config"}, "backend": {"backend", "config"}, "scp": {"scp", "config"}}
LOADED_BY_ORTHANC = re.compile(r"orthanc_plugin\.py|backend/\w+\.py|backend/plugin/.*")
# library: where it may be imported
DOORS = {
    "orthanc": re.compile(r"orthanc_plugin\.py"),
    "boto3": re.compile(r"backend/transfer/object_store/s3\w*\.py"),
    "botocore": re.compile(r"backend/transfer/object_store/s3\w*\.py"),
    "cryptography": re.compile(r"backend/transfer/encryption/\w+\.py"),
    "pynetdicom": re.compile(r"scp/.*\.py"),
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every absolute module name that running this source may import, also inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for alternative in node.orelse:
                yield from imported(alternative)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide what is imported"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            assert node.args
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}: an import that cannot be checked"
            yield str(node.args[0].value)
        yield from imported(node)


def sources(root: Path) -> dict[str, set[str]]:
    """Path below `root` → the modules it imports, for everything of ours that is not a test."""
    paths = [root / "orthanc_plugin.py", *(path for package in OURS for path in (root / package).rglob("*.py"))]
    return {
        str(path.relative_to(root)): set(imported(ast.parse(path.read_bytes(), str(path))))
        for path in paths
        if path.exists()
    }


def inside_orthanc(imports: dict[str, set[str]]) -> set[str]:
    """Paths of the modules that Orthanc's interpreter loads or may load: the plugin and all it reaches."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in imports}
    found: set[str] = set()
    open_paths = {
        path for path in imports if re.fullmatch(r"orthanc_plugin\.py|backend/\w+\.py|backend/plugin/.*", path)
    }
    while open_paths:
        path = open_paths.pop()
        found.add(path)
        parents = {name.rsplit(".", n)[0] for name in imports[path] for n in range(name.count(".") + 1)}
        open_paths |= {modules[name] for name in parents & modules.keys()} - found
    return found


def violations(root: Path) -> list[str]:
    """One sentence for each import that breaks a rule."""
    imports = sources(root)
    inside = inside_orthanc(imports)
    found = []
    for path, names in sorted(imports.items()):
        package = path.split("/")[0]
        for name in sorted({name.split(".")[0] for name in names}):
            if name in DOORS and not DOORS[name].fullmatch(path):
                found.append(f"{path} imports {name}")
            if name in OURS and name not in MAY_IMPORT.get(package, set(OURS)):
                found.append(f"{path}: {package} must not import {name}")
            if name == "tests":
                found.append(f"{path} imports from the tests")
            if path in inside and name not in {*sys.stdlib_module_names, *OURS, "orthanc"}:
                found.append(f"{path} runs inside Orthanc, where only the standard library exists, and imports {name}")
    return found


def test_the_import_rules_hold() -> None:
    assert violations(ROOT) == []


def test_every_library_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]} | {"botocore"}  # boto3's half
    used = {name.split(".")[0] for names in sources(ROOT).values() for name in names}
    assert used - declared - set(sys.stdlib_module_names) - {*OURS, "orthanc"} == set()


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("backend/plugin/processes.py", "import orthanc", "backend/plugin/processes.py imports orthanc"),
        ("scp/worker.py", "from boto3.session import Session", "scp/worker.py imports boto3"),
        ("backend/transfer/uploader.py", "import botocore.config", "backend/transfer/uploader.py imports botocore"),
        ("backend/cli/check.py", "def f():\n  import pynetdicom", "backend/cli/check.py imports pynetdicom"),
        ("scp/worker.py", "import backend.spool", "scp must not import backend"),
        ("backend/spool.py", "from scp import statuses", "backend must not import scp"),
        ("config/loader.py", "import importlib\nimportlib.import_module('scp.worker')", "config must not import scp"),
        ("backend/plugin/rest.py", "import pydantic", "the standard library exists, and imports pydantic"),
        ("backend/spool.py", "import xattr", "the standard library exists, and imports xattr"),
        ("orthanc_plugin.py", "import json5", "the standard library exists, and imports json5"),
        ("config/quantities.py", "import pydantic", "config/quantities.py runs inside Orthanc"),
        ("backend/transfer/server.py", "from tests.fakes import gate", "imports from the tests"),
    ],
)  # fmt: skip
def test_a_seeded_violation_is_found(tmp_path: Path, path: str, source: str, expected: str) -> None:
    tree = {
        "orthanc_plugin.py": "import orthanc\nimport backend.plugin.start",
        "backend/__init__.py": "",
        "backend/plugin/start.py": "from config import quantities",
        "config/quantities.py": "import re",
        "config/settings.py": "import pydantic",
        "scp/association.py": "from pynetdicom import AE\nfrom config import settings",
        "backend/transfer/object_store/s3.py": "import boto3, botocore",
        "backend/transfer/server.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import scp",
    }
    for name, text in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []

    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    found = violations(tmp_path)
    assert len(found) == 1
    assert expected in found[0]
