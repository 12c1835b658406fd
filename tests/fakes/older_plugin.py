"""Isen as Orthanc executes it, on a Python plugin that has only the first storage area, whatever it really has."""

import sys
from pathlib import Path
from typing import Any

import orthanc

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from backend.plugin.host import start  # noqa: E402 - Orthanc puts only this script's folder into the path


class Older:
    def __getattr__(self, name: str) -> Any:
        if name == "RegisterStorageArea3":
            raise AttributeError(name)
        return getattr(orthanc, name)


start(Older(), ROOT)
