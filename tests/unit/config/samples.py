"""A configuration that is right, for tests that break one thing in it."""

from __future__ import annotations

import copy
from typing import Any

from config.loader import Capabilities, Loaded, load
from config.problems import ConfigurationError

SECRET = "wJalrXUtnFEMI-not-to-be-seen"

GOOD: dict[str, Any] = {
    "DicomServerEnabled": False,
    "Isen": {
        "Storage": {
            "BucketName": "dicom",
            "Region": "eu-west-1",
            "Endpoint": "http://127.0.0.1:9000",
            "AccessKey": "AKIAEXAMPLE",
            "SecretKey": SECRET,
            "SpoolDirectory": "/var/lib/isen/spool",
            "CacheDirectory": "/var/lib/isen/cache",
        },
        "Dicom": {},
        "Worklists": {"Directory": "/var/lib/isen/worklists"},
    },
}


class Removed:
    """Put in place of a value, it removes the option."""


def changed(path: str, value: Any, base: dict[str, Any] = GOOD) -> dict[str, Any]:
    """`base` with the option at `path` (`Isen.Storage.Region`) set to `value`."""
    configuration = copy.deepcopy(base)
    section = configuration
    *parents, name = path.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    if value is Removed:
        del section[name]
    else:
        section[name] = value
    return configuration


def accepted(configuration: Any, capabilities: Capabilities | None = None) -> Loaded:
    """What the loader makes of it; a refusal fails the test with its sentences."""
    return load(configuration, capabilities or Capabilities())


def problems(configuration: Any, capabilities: Capabilities | None = None) -> dict[str, str]:
    """Path → message of every complaint; empty if there is none."""
    try:
        load(configuration, capabilities or Capabilities())
    except ConfigurationError as error:
        return {problem.path: problem.message for problem in error.problems}
    return {}


def only_problem(configuration: Any, capabilities: Capabilities | None = None) -> tuple[str, str]:
    """The one complaint there must be."""
    found = problems(configuration, capabilities)
    assert len(found) == 1, found
    return next(iter(found.items()))
