"""`python -m tests.complete_coverage`: each line and branch of what keeps or removes images is run by a test.

Which modules, and the tests that run them, are listed in pyproject.toml under `tool.isen.complete-coverage`. Only unit
tests count: an integration test runs many lines and looks at few.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the tests; the exit code is not 0 if one fails or a line or branch is left out."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["isen"]["complete-coverage"]
    missing = [path for path in listed["modules"] if not any(ROOT.glob(path))]
    if missing:
        print("no such module, see pyproject.toml:", *missing)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "coveragerc"
        include = "".join(f"\n    {path}" for path in listed["modules"])
        sources = "".join(
            f"\n    {package}" for package in sorted({path.partition("/")[0] for path in listed["modules"]})
        )
        excluded = "\n    if TYPE_CHECKING:\n    \\.\\.\\.$"
        configuration.write_text(
            # with `source` a module that no test imports is reported, too
            f"[run]\nbranch = true\ndata_file = {folder}/data\nsource = {sources}\n"
            f"[report]\ninclude = {include}\nfail_under = 100\nshow_missing = true\nskip_covered = true\n"
            f"exclude_also = {excluded}\n"
        )
        environment = {**os.environ, "COVERAGE_RCFILE": str(configuration)}
        pytest = ["-m", "pytest", "-q", "--no-header", "-m", "not soak", *listed["tests"]]
        for arguments in (["run", *pytest], ["report"]):
            code = subprocess.run(
                [sys.executable, "-m", "coverage", *arguments], check=False, cwd=ROOT, env=environment
            ).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
