"""Orthanc's configuration, validated outside Orthanc's interpreter.

`python -m config` runs under the virtual environment's interpreter and answers with the settings or with every mistake
at once, so that the validation library never enters Orthanc.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

_DEADLINE: Final = 60.0  # seconds


class ConfigurationRefused(Exception):
    """The configuration is wrong; the message lists every mistake, one per line."""


def child_environment(secrets: Collection[str] = ()) -> dict[str, str]:
    """Orthanc's environment without what would bend another Python interpreter, and without these variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name not in secrets}


def key_variables(configuration: dict[str, Any]) -> set[str]:
    """Names of the environment variables that hold keys of `Encryption`, from a configuration not validated yet."""
    found: set[str] = set()
    for path in (("Isen", "Storage"), ("AwsS3Storage",)):
        section: Any = configuration
        for name in (*path, "Encryption", "Keys"):
            section = section.get(name) if isinstance(section, dict) else None
        for source in section.values() if isinstance(section, dict) else ():
            if isinstance(source, str):
                found.add(source.removeprefix("env:"))  # a path is the name of no variable
    return found


def interpreter(configuration: dict[str, Any], folder: Path) -> Path:
    """The Python that runs our other processes: `Isen.Python`, or the virtual environment beside the script.

    Raises:
        ConfigurationRefused: there is none.
    """
    section = configuration.get("Isen", {})
    named = section.get("Python") if isinstance(section, dict) else None
    python = Path(named) if isinstance(named, str) else folder / ".venv" / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise ConfigurationRefused(
            f"Isen.Python: {python} cannot be executed; run `make setup` in {folder}, or name the interpreter of a "
            "virtual environment that has Isen's packages"
        )
    return python


def resolve(
    configuration: dict[str, Any],
    capabilities: dict[str, Any],
    python: Path,
    folder: Path,
    log_warning: Callable[[str], None],
) -> dict[str, Any]:
    """The settings, as JSON values.

    Raises:
        ConfigurationRefused: with every mistake and its path.
    """
    request = json.dumps({"Configuration": configuration, "Capabilities": capabilities})
    run = subprocess.run(
        [str(python), "-m", "config"],
        input=request.encode(),
        capture_output=True,
        cwd=folder,
        env=child_environment(key_variables(configuration)),
        timeout=_DEADLINE,
        check=False,
    )
    try:
        answer = json.loads(run.stdout)
    except ValueError:
        raise ConfigurationRefused(
            f"Isen.Python: `{python} -m config` did not answer (exit code {run.returncode}); does this interpreter "
            f"have Isen's packages? It said: {run.stderr.decode(errors='replace').strip()[-500:]}"
        ) from None
    for warning in answer.get("Warnings", []):
        log_warning(f"configuration_warning {warning}")
    if answer.get("Errors"):
        raise ConfigurationRefused("\n".join(f"{error['Path']}: {error['Message']}" for error in answer["Errors"]))
    settings: dict[str, Any] = answer["Settings"]
    return settings
