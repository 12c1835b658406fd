"""Tries the interpreter of Isen's own processes, and looks for the script Orthanc executes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from backend.cli.outcome import Outcome, failed, passed
from config.settings import Settings

_PACKAGES: Final = ("boto3", "pydantic", "pydicom", "pynetdicom", "urllib3")
_OLDEST: Final = [3, 11]
_DEADLINE: Final = 60.0  # seconds
_QUESTION: Final = (
    "import importlib.util, json, sys; print(json.dumps([list(sys.version_info[:3]), "
    "[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]]))"
)


def check(settings: Settings, configuration: dict[str, Any]) -> Iterator[Outcome]:
    yield _interpreter(settings.python)
    section = configuration.get("Python")
    script = section.get("Path") if isinstance(section, dict) else configuration.get("PythonScript")
    if isinstance(script, str):
        name = "Plugin script"
        if Path(script).is_file() and os.access(script, os.R_OK):
            yield passed(name, f"{script} is there")
        else:
            yield failed(name, f"PythonScript: {script} cannot be read; name the orthanc_plugin.py of Isen's folder")


def _interpreter(python: Path) -> Outcome:
    name = "Interpreter"
    remedy = "run `make setup`, or name the interpreter of a virtual environment that has Isen's packages"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        answer = subprocess.run(
            [python, "-c", _QUESTION, *_PACKAGES],
            capture_output=True,
            timeout=_DEADLINE,
            check=True,
            env=environment,
            cwd="/",
        )
        version, missing = json.loads(answer.stdout)
    except OSError as error:
        return failed(name, f"Isen.Python: {python} cannot be executed ({error.strerror}); {remedy}")
    except (subprocess.SubprocessError, ValueError):
        return failed(name, f"Isen.Python: {python} does not behave like Python; {remedy}")
    if missing:
        return failed(name, f"Isen.Python: {python} lacks {', '.join(missing)}; {remedy}")
    number = ".".join(map(str, version))
    if version < _OLDEST:
        return failed(name, f"Isen.Python: {python} is Python {number}, too old; 3.11 is the oldest that works")
    return passed(name, f"{python} is Python {number} with every package")
