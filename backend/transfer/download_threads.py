"""Threads for downloads: one goes on with many, each when its answer has come; others have one to themselves.

Thirty threads that wait for S3 get their answers at once, and then take the interpreter from each other several times
for each download. So what only waits for an answer waits in poll(2), together with others, until the kernel has all of
it; then it is read, hashed and written without waiting. What takes long, must connect first or waits for something else
goes on in a thread of its own, as does an answer that does not come in a second.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Final, TypeAlias

from backend.transfer.download_slots import busy_cores
from config.http.asked import Asked

log = logging.getLogger(__name__)

# as Fetcher.fetch_ahead, and never raises
Download: TypeAlias = Generator[Asked | None, bool | None, None]

_PATIENCE: Final = 1.0  # seconds


class DownloadThreads:
    """Goes on with downloads until this process ends. Thread-safe."""

    def __init__(self, begin: Callable[[], Download | None], total: int) -> None:
        """`begin` gives the next download, if there is one; `total` are under way at most. Nothing happens yet."""
        self._begin = begin
        self._total = total
        self._count = 0  # begun and not ended
        self._apart: SimpleQueue[tuple[Download, bool]] = SimpleQueue()
        self._lock = threading.Lock()
        self._loops = [_Loop(self) for _ in range(busy_cores())]

    def start(self) -> None:
        for number, loop in enumerate(self._loops, 1):
            threading.Thread(target=loop.run, name=f"downloads-{number}", daemon=True).start()
        for number in range(1, self._total + 1):
            threading.Thread(target=self._run, name=f"download-{number}", daemon=True).start()

    def wake(self) -> None:
        """There is something to begin."""
        for loop in self._loops:
            if loop.wake():
                return

    def begin(self) -> Download | None:
        """The next one, unless as many are under way as there are threads for those that wait; `end` it."""
        with self._lock:
            if self._count == self._total:
                return None
            download = self._begin()
            if download is not None:
                self._count += 1
            return download

    def end(self) -> None:
        """One that was begun has ended; the next may begin."""
        with self._lock:
            self._count -= 1

    def hand_over(self, download: Download, *, to_its_end: bool) -> None:
        """Go on with it in a thread that it has to itself, to its end or until it waits for an answer."""
        self._apart.put((download, to_its_end))

    def _run(self) -> None:
        while True:
            download, to_its_end = self._apart.get()
            asked = None
            try:
                while asked is None:
                    asked = download.send(to_its_end)
            except StopIteration:
                self.end()
                self.wake()
            else:
                min(self._loops, key=lambda loop: loop.count).take(download, asked)


class _Loop:
    """One thread's downloads."""

    def __init__(self, threads: DownloadThreads) -> None:
        self._threads = threads
        self._waiting: dict[int, tuple[Download, float]] = {}  # by descriptor, with the monotonic time of their request
        self._sockets = select.poll()
        self._taken: SimpleQueue[tuple[Download, Asked]] = SimpleQueue()
        self._is_asleep = False
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC)

    @property
    def count(self) -> int:
        return len(self._waiting)

    def wake(self) -> bool:
        """Whether it was asleep."""
        was_asleep, self._is_asleep = self._is_asleep, False
        if was_asleep:
            os.eventfd_write(self._alarm, 1)
        return was_asleep

    def take(self, download: Download, asked: Asked) -> None:
        """Wait for this as well."""
        self._taken.put((download, asked))
        os.eventfd_write(self._alarm, 1)

    def run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - whatever it is, readers would wait for ever
            log.critical("downloads_ended reason=%r", error)
            os._exit(1)  # the plugin starts this process again

    def _serve(self) -> None:
        self._sockets.register(self._alarm, select.POLLIN)
        while True:
            self._is_asleep = True  # before the look for something to begin, so that no alarm is missed
            self._begin()
            events = self._sockets.poll(_PATIENCE * 1000 if self._waiting else None)
            self._is_asleep = False  # another may begin what comes meanwhile
            for descriptor, _ in events:
                if descriptor == self._alarm:
                    os.eventfd_read(self._alarm)
                    while not self._taken.empty():
                        self._wait(*self._taken.get(), time.monotonic())
                else:
                    self._go_on(*self._stop_waiting(descriptor))
                    self._begin()
            late = time.monotonic() - _PATIENCE
            for descriptor in [one for one, (_, since) in self._waiting.items() if since < late]:
                self._threads.hand_over(self._stop_waiting(descriptor)[0], to_its_end=True)

    def _begin(self) -> None:
        while (download := self._threads.begin()) is not None:
            self._go_on(download, time.monotonic())

    def _go_on(self, download: Download, since: float) -> None:
        for asked in download:
            if asked is None:
                self._threads.hand_over(download, to_its_end=False)
            else:
                self._wait(download, asked, since)
            return
        self._threads.end()

    def _wait(self, download: Download, asked: Asked, since: float) -> None:
        self._waiting[asked.fileno()] = download, since
        self._sockets.register(asked.fileno(), select.POLLIN)

    def _stop_waiting(self, descriptor: int) -> tuple[Download, float]:
        self._sockets.unregister(descriptor)
        return self._waiting.pop(descriptor)
