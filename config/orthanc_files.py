"""Orthanc's configuration files, read the way Orthanc reads them; for `isen check`, which runs without Orthanc.

Inside Orthanc the plugin gets the merged result from Orthanc itself. What is repeated here was checked against 1.10.1:
a folder means every `*.json` directly in it; `${NAME}` and `${NAME:-default}` are replaced in the text before it is
parsed, an unset variable by nothing; comments and a comma after the last element are allowed; a top-level option may
stand in one file only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from config.problems import ConfigurationError, Findings

_VARIABLE: Final = re.compile(
    r"""\$\{(?P<name>[^:}]*)(?P<fallback>:-(?:"(?P<double>[^'"}]*)"|'(?P<single>[^'"}]*)'|(?P<plain>[^'"}]*)))?\}"""
)
_STRING: Final = r'"(?:\\.|[^"\\])*"'
_COMMENT: Final = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_LAST_COMMA: Final = re.compile(rf"{_STRING}|,(?=\s*[\]}}])", re.DOTALL)


@dataclass
class OrthancFiles:
    """The merged configuration and what is doubtful about its text."""

    configuration: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_files(paths: Iterable[Path], environment: Mapping[str, str]) -> OrthancFiles:
    """Merge files, and the files of folders, into one configuration.

    Raises:
        ConfigurationError: a file is missing, unreadable or no JSON, or two of them hold the same option.
    """
    findings = Findings()
    merged: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for path in _expand(paths, findings):
        for option, value in _read(path, environment, findings).items():
            if option in origin:
                findings.refuse(
                    option, f"stands in {origin[option]} and in {path}; Orthanc accepts it in one file only"
                )
            origin[option] = path
            merged[option] = value
    if findings.problems:
        raise ConfigurationError(tuple(findings.problems), tuple(findings.warnings))
    return OrthancFiles(merged, tuple(findings.warnings))


def _expand(paths: Iterable[Path], findings: Findings) -> list[Path]:
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".json" and not entry.is_dir())
        if not found:
            findings.refuse(str(path), "holds no *.json file")
        files += found
    return files


def _read(path: Path, environment: Mapping[str, str], findings: Findings) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        findings.refuse(str(path), f"cannot be read: {error.strerror}")
        return {}
    except UnicodeDecodeError:
        findings.refuse(str(path), "is not UTF-8 text")
        return {}
    try:
        content = parse(substitute(without_comments(text), environment, path.name, findings))
    except json.JSONDecodeError as error:
        findings.refuse(str(path), f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg}")
        return {}
    if not isinstance(content, dict):
        findings.refuse(str(path), "must be a JSON object: { … }")
        return {}
    return content


def substitute(text: str, environment: Mapping[str, str], file: str, findings: Findings) -> str:
    """Replace `${NAME}` and `${NAME:-default}`; a variable that is set but empty does not take its default."""

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if name in environment:
            return environment[name]
        if match["fallback"] is not None:
            return match["double"] or match["single"] or match["plain"] or ""
        if not name:
            findings.refuse(file, "holds `${}`, at which Orthanc stops; name the environment variable")
        else:
            findings.warn(file, f"the environment variable {name} is not set; Orthanc reads nothing in its place")
        return ""

    return _VARIABLE.sub(value, text)


def without_comments(text: str) -> str:
    """Spaces in place of comments, so that lines and columns stay; first of all, for a variable there is no option."""
    return _COMMENT.sub(_blank, text)


def parse(text: str) -> Any:
    """JSON that may have a comma after the last element.

    Raises:
        json.JSONDecodeError: it is something else.
    """
    return json.loads(_LAST_COMMA.sub(_blank, text), strict=False, parse_constant=_no_constant)


def _blank(match: re.Match[str]) -> str:
    found = match[0]
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a number in JSON", "", 0)
