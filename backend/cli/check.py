"""`isen check`: the validation of Orthanc's start, and then everything a start would need, tried for real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.cli import bucket, folders, interpreter, network
from backend.cli.outcome import Outcome, Verdict, passed, warning
from config.loader import Capabilities, load
from config.orthanc_files import read_files
from config.problems import ConfigurationError, Problem
from config.settings import Settings


@dataclass(frozen=True)
class Report:
    """What a check found: mistakes of the configuration, or the outcome of every trial."""

    problems: tuple[Problem, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def works(self) -> bool:
        return not self.problems and all(outcome.verdict is not Verdict.FAILED for outcome in self.outcomes)


def run_checks(paths: list[Path]) -> Report:
    """Read and validate the files, then try folders, bucket, ports, interpreter and certificates."""
    try:
        files = read_files(paths, os.environ)
        loaded = load(files.configuration, Capabilities(configuration_path=paths[0].absolute()))
    except ConfigurationError as error:
        return Report(error.problems, tuple(warning("Configuration", text) for text in error.warnings))
    doubts = (*files.warnings, *loaded.warnings)
    configuration = [warning("Configuration", text) for text in doubts] or [passed("Configuration", "no mistakes")]
    return Report((), (*configuration, *_trials(loaded.settings, files.configuration)))


def _trials(settings: Settings, configuration: dict[str, Any]) -> Iterator[Outcome]:
    yield from interpreter.check(settings, configuration)
    yield from folders.check(settings)
    yield bucket.check(settings.storage)
    yield from network.check(settings, configuration)
