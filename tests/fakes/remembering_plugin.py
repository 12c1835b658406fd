"""Isen as Orthanc executes it, and `/test/remembered`: with how many callbacks a thread came while Python knew it."""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orthanc

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from backend.plugin.host import start  # noqa: E402 - Orthanc puts only this script's folder into the path

known = threading.local()  # goes with Python's state of the thread
most = 0
callbacks: list[Callable[..., Any]] = []  # Orthanc's end must not free them


def counted(callback: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        global most  # noqa: PLW0603 - a script
        known.calls = getattr(known, "calls", 0) + 1
        most = max(most, known.calls)
        return callback(*arguments)

    callbacks.append(call)
    return call


def tell(output: Any, _path: str, **_request: Any) -> None:
    output.AnswerBuffer(json.dumps(most), "application/json")


class Counting:
    def __getattr__(self, name: str) -> Any:
        found = getattr(orthanc, name)
        if not name.startswith("RegisterStorageArea"):
            return found
        return lambda *given: found(*map(counted, given))


orthanc.RegisterRestCallback("/test/remembered", tell)
start(Counting(), ROOT)
