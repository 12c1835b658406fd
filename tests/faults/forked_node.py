"""The plugin's storage side and its transfer process, both real, that can be killed and started many times a second."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from backend import messages
from backend.plugin.attachments import Attachments
from backend.plugin.transfer_client import TransferClient
from backend.spool import Spool
from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from tests.fakes.gate import Gate
from tests.fakes.s3_faults import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, FakeS3

LISTENER = 50  # the descriptor's number in the transfer process
ROOT = Path(__file__).parents[2]
MAXIMUM_SPOOL = 100_000_000  # bytes
MAXIMUM_CACHE = 1_000_000  # bytes, so that there are evictions


class Forks:
    """An S3 server behind a gate, and whatever makes transfer processes for it; for many nodes one after the other."""

    def __init__(self, mistake: str = "none") -> None:
        self.s3 = FakeS3()
        self.gate = Gate(free_port(), ("127.0.0.1", self.s3.server_port))
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.faults.transfer_forks", mistake]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=theirs)
        self._requests.sendall(json.dumps(self.settings(ROOT)).encode())

    def settings(self, folder: Path) -> dict[str, Any]:
        """Of a node in this folder; the store's are the same for all."""
        return {
            "Python": sys.executable,
            "Storage": {
                "BucketName": BUCKET,
                "Region": REGION,
                "Endpoint": self.gate.url,
                "AccessKey": ACCESS_KEY,
                "SecretKey": SECRET_KEY,
                "VirtualAddressing": False,
                "SpoolDirectory": str(folder / "spool"),
                "CacheDirectory": str(folder / "cache"),
                "MaximumCacheSize": MAXIMUM_CACHE,
                "RemovalGracePeriod": 0.1,
                "MissingObjectPatience": 0.1,
                "ConnectTimeout": 2,
                "RequestTimeout": 3,
                "ConcurrentUploads": 4,
                "ConcurrentDownloads": 4,
            },
        }

    def fork(self, *descriptors: int) -> int:
        """A new process with these as its standard input, output, error and listening socket; its id."""
        socket.send_fds(self._requests, [b"fork"], descriptors)
        return int.from_bytes(self._requests.recv(4), "big")

    def close(self) -> None:
        self._requests.close()
        self._process.kill()  # it keeps nothing that an end in order would save
        self._process.wait()
        self.gate.close()
        self.s3.stop()


class ForkedNode:
    """One spool, one cache, and a plugin that starts its transfer process again whenever that dies."""

    spool_class: type[Spool] = Spool

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.folder = folder
        self.forks = forks
        self.log = folder / "log"
        self.errors: list[str] = []  # lines in Orthanc's log
        self.starts = 0
        self._lock = threading.RLock()
        self._restarts = True
        self._pidfd = -1
        self._start_plugin()

    def kill_transfer(self) -> None:
        """Kill -9; it is dead when this returns, and about to be started again unless restarts are held."""
        with self._lock:
            pidfd = self._pidfd
            if pidfd < 0:
                return
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return
            select.select([pidfd], [], [], 10)

    def hold_restarts(self) -> None:
        """Whoever dies stays dead."""
        with self._lock:
            self._restarts = False

    def allow_restarts(self) -> None:
        with self._lock:
            self._restarts = True
            if self._pidfd < 0:
                self._start_transfer()

    def stop(self, *, in_order: bool) -> None:
        """End Orthanc: in order, or as with kill -9, which the transfer process notices by itself."""
        with self._lock:
            pidfd, self._restarts = self._pidfd, False
            if pidfd >= 0 and in_order:
                with suppress(ProcessLookupError):  # it was killed just now
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if pidfd >= 0 and not in_order:
                self._line.close()
        self._watcher.join(20)
        self._listener.close()
        assert self._pidfd < 0, "the transfer process did not end"

    def start(self) -> None:
        """Start Orthanc again."""
        self._start_plugin()

    def close(self) -> None:
        self.kill_transfer()
        self.stop(in_order=False)

    def listing(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.folder / "spool" / folder))

    def bytes_on_disk(self) -> int:
        """Of what is in the spool and counts."""
        total = 0
        for folder in ("incoming", "pending"):
            for entry in os.scandir(self.folder / "spool" / folder):
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:
                    continue  # uploaded since
        return total

    def cached(self) -> list[Path]:
        return sorted(path for path in (self.folder / "cache" / "objects").rglob("*") if path.is_file())

    def wait(self, condition: Any, what: str, deadline: float = 30) -> None:
        """Wait for the condition, and say what the process said if it does not come true."""
        try:
            wait_until(condition, deadline, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-5000:]}") from None

    def _start_plugin(self) -> None:
        self.spool = self.spool_class(self.folder / "spool", MAXIMUM_SPOOL, log_error=self.errors.append)
        path = self.spool.directory / "transfer.sock"
        self._listener = messages.listen(path)
        self.attachments = Attachments(
            self.spool, self.folder / "cache", TransferClient(path), log_error=self.errors.append
        )
        self.spool.recover()
        self.allow_restarts()

    def _start_transfer(self) -> None:
        commands, line = os.pipe()
        events, written = os.pipe()
        with self.log.open("ab") as log:
            pid = self.forks.fork(commands, written, log.fileno(), self._listener.fileno())
        os.close(commands)
        os.close(written)
        self.starts += 1
        self._pidfd = os.pidfd_open(pid)
        self._line = os.fdopen(line, "wb", buffering=0)
        message = {"Settings": self.forks.settings(self.folder), "Listener": LISTENER}
        self._line.write(json.dumps(message).encode() + b"\n")
        self._watcher = threading.Thread(target=self._watch, args=(events, self._pidfd, self._line), daemon=True)
        self._watcher.start()

    def _watch(self, events: int, pidfd: int, line: Any) -> None:
        """As the plugin's supervisor: reports are taken, a death is counted with, a successor started."""
        with os.fdopen(events, "rb") as reports:
            for text in reports:
                event = json.loads(text) if text.endswith(b"\n") else {}
                if event.get("Event") == "report":
                    self.spool.released(event["ReleasedBytes"])
        select.select([pidfd], [], [], 10)
        with self._lock:
            os.close(pidfd)
            line.close()
            self._pidfd = -1
            self.spool.recount()
            if self._restarts:
                self._start_transfer()
