"""The transfer process as the plugin runs it: launch message, inherited socket, events; for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

from backend import messages
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool
from backend.stack.processes import wait_until

ROOT = Path(__file__).parents[2]
MEGABYTE = 1024 * 1024


class TransferChild:
    """Starts `python -m backend.transfer`, any number of times one after the other, on one spool and one socket."""

    def __init__(self, folder: Path, endpoint: str, bucket: str, **storage: object) -> None:
        """`storage` are settings of `Isen.Storage` that differ from those of a fast test."""
        self.folder = folder
        self.cache = folder / "cache"
        self.spool = Spool(folder / "spool", 1024 * MEGABYTE)
        self.settings = {
            "Python": sys.executable,
            "Storage": {
                "BucketName": bucket,
                "Region": "eu-west-1",
                "Endpoint": endpoint,
                "AccessKey": "FAKEACCESSKEY",
                "SecretKey": "fake/secret+key",
                "VirtualAddressing": False,
                "SpoolDirectory": str(self.spool.directory),
                "CacheDirectory": str(self.cache),
                "RemovalGracePeriod": 0.5,
                "MissingObjectPatience": 0.5,
                "ConnectTimeout": 2,
                "RequestTimeout": 3,
                **storage,
            },
        }
        path = self.spool.directory / "transfer.sock"
        self._listener = messages.listen(path)
        self.client = TransferClient(path)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        self.is_ready = False
        self.refusal: str | None = None
        self.report: dict[str, Any] = {}

    def start(self) -> None:
        """Start it; returns at once."""
        self.is_ready = False
        self.report = {}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "backend.transfer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                pass_fds=(self._listener.fileno(),),
            )
        message = {"Settings": self.settings, "Listener": self._listener.fileno()}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        threading.Thread(target=self._hear, args=(self.process,), daemon=True).start()

    def start_ready(self) -> None:
        self.start()
        self.wait(lambda: self.is_ready, "ready")

    def wait(self, condition: Any, what: str, deadline: float = 30) -> None:
        """Wait for the condition, and say what the process said if it does not come true."""
        try:
            wait_until(condition, deadline, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\nreport: {self.report}\nlog:\n{self.log.read_text()}") from None

    def wait_drained(self, deadline: float = 30) -> None:
        """Until nothing is pending; reports may say so a second later."""
        self.wait(lambda: self.listing("pending") == [], "nothing is pending", deadline)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def end_input(self) -> float:
        """Close its standard input; returns the exit code."""
        assert self.process
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(10)

    def terminate(self) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def close(self) -> None:
        """End everything, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._listener.close()

    def accept(self, name: str, content: bytes) -> None:
        """As the plugin's `create`."""
        self.spool.accept(name, content)
        self.client.wake()

    def remove(self, name: str) -> None:
        """As the plugin's `remove`."""
        self.spool.bury(name)
        self.client.wake()

    def fetch(self, name: str, timeout: float = 30) -> bytes:
        descriptor = self.client.fetch(name, timeout)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def listing(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.spool.directory / folder))

    def cached(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "objects").rglob("*") if path.is_file())

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with contextlib.suppress(ValueError):  # closed
            for line in process.stdout:
                event = json.loads(line)
                match event.pop("Event"):
                    case "ready":
                        self.is_ready = True
                    case "refused":
                        self.refusal = event["Reason"]
                    case "report":
                        self.report = event


def name_of(number: int, extension: str = ".dcm") -> str:
    """A valid attachment name, the same for the same number."""
    digits = sha256(str(number).encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}{extension}"


def content_of(number: int, size: int = 50_000) -> bytes:
    """Bytes that no other number has."""
    return (sha256(str(number).encode()).digest() * (size // 32 + 1))[:size]


def connect(child: TransferChild) -> socket.socket:
    """A raw connection, for what the client would never send."""
    connection = messages.connect(child.spool.directory / "transfer.sock")
    connection.settimeout(10)
    return connection
