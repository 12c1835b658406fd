"""What is watched while work is done: CPU and memory of processes, latency of the REST API, backlog of the spool."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")  # seconds
_MEMORY_INTERVAL: Final = 0.1  # seconds between two looks at memory and backlog


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie (the nearest one above)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Use:
    """What one process used."""

    cpu: float = 0.0  # seconds
    memory: int = 0  # bytes resident, the most that was seen


class Processes:
    """CPU and memory of processes between entering and leaving."""

    def __init__(self, processes: Mapping[int, str]) -> None:
        """`processes`: id → name; those of one name are added up."""
        self._processes = dict(processes)
        self.uses: dict[str, Use] = {name: Use() for name in processes.values()}

    def begin(self) -> None:
        """Note where they stand."""
        self._before = {pid: _cpu(pid) for pid in self._processes}

    def look(self) -> None:
        """Note how much memory they have now."""
        now: dict[str, int] = {}
        for pid, name in self._processes.items():
            now[name] = now.get(name, 0) + _memory(pid)
        for name, memory in now.items():
            self.uses[name].memory = max(self.uses[name].memory, memory)

    def end(self) -> dict[str, Use]:
        """What each used since `begin`."""
        for pid, name in self._processes.items():
            self.uses[name].cpu += max(0.0, _cpu(pid) - self._before[pid])
        return self.uses


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK


def _memory(pid: int) -> int:
    try:
        resident = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:  # it has ended
        return 0
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watched:
    """What was seen while the work was done."""

    uses: dict[str, Use] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)  # seconds, of GET /system
    backlog: int = 0  # attachments, the most that waited for S3


class Watcher:
    """Watches from entering to leaving a `with` block; read `watched` afterwards."""

    def __init__(self, url: str, processes: Mapping[int, str], pending: Callable[[], int], rate: float) -> None:
        """`rate` is how many GET /system are sent per second, on one kept-alive connection; 0: none."""
        self._processes = Processes(processes)
        self._pending = pending
        self._rate = rate
        self._address = urlsplit(url).netloc
        self._ended = threading.Event()
        self._asked_enough = threading.Event()
        self.watched = Watched()

    def __enter__(self) -> Self:
        """Begin."""
        self._threads = [threading.Thread(target=self._look)]
        if self._rate:
            self._threads.append(threading.Thread(target=self._ask))
        self._processes.begin()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """End."""
        self.stop_asking()
        self.watched.uses = self._processes.end()
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def stop_asking(self) -> None:
        """The load is over; latencies from now on would not belong to it."""
        self._asked_enough.set()

    def _look(self) -> None:
        while not self._ended.wait(_MEMORY_INTERVAL):
            self._processes.look()
            self.watched.backlog = max(self.watched.backlog, self._pending())

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        planned = time.monotonic()
        while not self._asked_enough.is_set():
            connection.request("GET", "/system")
            connection.getresponse().read()
            # from the planned moment: a slow answer must not hide how long the next request would have waited
            self.watched.latencies.append(time.monotonic() - planned)
            planned = max(planned + 1 / self._rate, planned)
            self._asked_enough.wait(max(0.0, planned - time.monotonic()))
        connection.close()


def used(uses: Mapping[str, Use], per: int) -> dict[str, Any]:
    """As JSON: milliseconds of CPU for each of `per` pieces of work, and megabytes."""
    return {
        name: {"cpu_ms": round(1000 * use.cpu / per, 3), "memory_mb": round(use.memory / 1e6, 1)}
        for name, use in sorted(uses.items())
    }
