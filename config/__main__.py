"""`python -m config`: validates Orthanc's configuration for the plugin, which must not import a validation library.

Standard input takes one JSON object, either Orthanc's whole configuration or
`{"Configuration": …, "Capabilities": {"AllowThreads": bool, "StorageApi": 1|3, "ConfigurationPath": "…"}}`, where every
capability may be left out (see `config.loader.Capabilities`; StorageApi changes nothing here).

Standard output gets one JSON object and nothing else:
    {"Settings": {…}, "Warnings": ["…"]}                                exit code 0
    {"Errors": [{"Path": "…", "Message": "…"}], "Warnings": ["…"]}      exit code 78, EX_CONFIG of sysexits.h

The settings hold the secret key: the plugin passes them on through pipes and never writes them anywhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from config.child_process import CANNOT_START
from config.loader import Capabilities, load
from config.problems import ConfigurationError, Problem


def main() -> int:
    try:
        configuration, capabilities = _request(sys.stdin.buffer.read())
        loaded = load(configuration, capabilities)
    except ConfigurationError as error:
        errors = [{"Path": problem.path, "Message": problem.message} for problem in error.problems]
        print(json.dumps({"Errors": errors, "Warnings": error.warnings}))
        return CANNOT_START
    settings = loaded.settings.model_dump(mode="json", by_alias=True)
    print(json.dumps({"Settings": settings, "Warnings": loaded.warnings}))
    return 0


def _request(content: bytes) -> tuple[Any, Capabilities]:
    try:
        request = json.loads(content)
    except ValueError:
        raise ConfigurationError((Problem("configuration", "standard input is not JSON"),)) from None
    if not isinstance(request, dict) or "Configuration" not in request:
        return request, Capabilities()
    facts = request.get("Capabilities")
    facts = facts if isinstance(facts, dict) else {}
    path = facts.get("ConfigurationPath")
    return request["Configuration"], Capabilities(
        allow_threads=facts.get("AllowThreads") is True,
        configuration_path=Path(path) if isinstance(path, str) and path else None,
    )


if __name__ == "__main__":
    sys.exit(main())
