"""Modalities: unmodified `dcmsend` processes, as many as asked for, each with one study over one association."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_DEADLINE: Final = 600.0  # seconds


class SendingFailed(Exception):
    """A sender reported an error, or images are missing afterwards."""


def environment(*, nodelay: bool) -> dict[str, str]:
    """Our environment with or without DCMTK's switch against Nagle's algorithm; a modality has not set it."""
    plain = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    return plain | {"TCP_NODELAY": "1"} if nodelay else plain


def send(port: int, folders: Sequence[Path], *, nodelay: bool = False) -> float:
    """Send each folder with a `dcmsend` of its own, all at once; seconds until the last one has ended.

    Raises:
        SendingFailed: one of them ended with an error.
    """
    command = [tool("dcmsend"), "--scan-directories", "--call", "ORTHANC", "127.0.0.1", str(port)]
    start = time.monotonic()
    senders = [
        subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(nodelay=nodelay),
        )
        for folder in folders
    ]
    try:
        outputs = [sender.communicate(timeout=_DEADLINE)[0] for sender in senders]
    finally:
        for sender in senders:
            if sender.poll() is None:
                sender.kill()
                sender.wait()
    elapsed = time.monotonic() - start
    for sender, output in zip(senders, outputs, strict=True):
        if sender.returncode:
            raise SendingFailed(f"dcmsend ended with {sender.returncode}: {output.decode(errors='replace')[-500:]}")
    return elapsed


def tool(name: str) -> str:
    """The path of one of DCMTK's tools, never that of a Python package's tool of the same name.

    Raises:
        FileNotFoundError: it is not installed.
    """
    path = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if not path:
        raise FileNotFoundError(f"DCMTK's {name} is not installed; run `make setup`")
    return path
