"""Watches the child processes: one thread, asleep in poll(2) unless a child speaks or dies.

"Cannot start" is not "died": a child that refuses to start while Orthanc starts ends the start with its sentence; one
that dies later is started again, after a pause that grows while it keeps dying.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from config.child_process import CANNOT_START
from config.children import Child

START_DEADLINE: Final = 60.0  # seconds until every child is ready; a cold machine imports slowly
_NO_EVENT_PAUSE: Final = 5.0  # seconds; bounds how late a hung child is noticed


class CannotStart(Exception):
    """A child process cannot work with this configuration; the message says what to mend."""


class Supervisor:
    """Starts, watches, restarts and stops the children."""

    def __init__(
        self,
        children: list[Child],
        *,
        on_report: Callable[[Child], None],
        on_death: Callable[[Child], None],
        log_warning: Callable[[str], None],
        log_error: Callable[[str], None],
    ) -> None:
        """`on_report` and `on_death` run in the watching thread; `on_death` before the child is started again."""
        self.children = children
        self._on_report = on_report
        self._on_death = on_death
        self._log_warning = log_warning
        self._log_error = log_error
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._lock = threading.Lock()  # held while children are started, stopped or spoken to
        self._accepting = False
        self._ending: set[str] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start_all(self) -> None:
        """Start every child and return when all are ready.

        Raises:
            CannotStart: one refused, or died, or was not ready in time; none is left running.
        """
        try:
            deadline = time.monotonic() + START_DEADLINE
            for child in self.children:
                self._start(child)
            while not all(child.is_ready for child in self.children):
                self._wait(deadline)
        except BaseException:
            self.stop(self.children, patience=1)
            raise

    def _wait(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            late = ", ".join(child.spec.name for child in self.children if not child.is_ready)
            raise CannotStart(f"not ready after {START_DEADLINE:g} s: {late}")
        for key, _ in self._selector.select(left):
            child = key.data
            if child is not None and child.hear() is None:
                self._selector.unregister(key.fd)
                code = child.bury()
                raise CannotStart(child.refusal or f"{child.spec.name} ended with exit code {code} while starting")

    def watch(self) -> None:
        """Begin to watch, in a thread of our own."""
        self._thread = threading.Thread(target=self._run, name="isen-supervisor", daemon=True)
        self._thread.start()

    def accept(self) -> None:
        """Orthanc has started: tell every child, now and after a restart, that it may accept work."""
        with self._lock:
            self._accepting = True
            for child in self.children:
                child.send({"Command": "accept"})

    def stop(self, children: list[Child], patience: float) -> None:
        """End these children for good, all at once: SIGTERM, and SIGKILL after `patience` seconds."""
        with self._lock:
            self._ending.update(child.spec.name for child in children)
            for child in children:
                child.signal(signal.SIGTERM)
        os.write(self._wake_write, b"x")
        deadline = time.monotonic() + patience
        for child in children:
            with self._lock:
                if child.process is not None:
                    self._forget(child)
                    child.end(max(0.0, deadline - time.monotonic()))

    def close(self, patience: float) -> None:
        """Stop everybody, and the watching thread: awake in an interpreter that is gone, it takes Orthanc down."""
        self._closed = True
        self.stop(self.children, patience)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(self._pause()):
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._hear(key.data)
            with self._lock:
                self._mend()

    def _pause(self) -> float:
        """Seconds until the next start is due."""
        waiting = [c.start_at for c in self.children if c.process is None and c.spec.name not in self._ending]
        return min([_NO_EVENT_PAUSE, *(max(0.0, at - time.monotonic()) for at in waiting)])

    def _hear(self, child: Child) -> None:
        with self._lock:
            if child.process is None or child.spec.name in self._ending:
                return
            events = child.hear()
            if events is None:
                self._died(child)
                return
        if events:
            self._on_report(child)

    def _died(self, child: Child) -> None:
        self._forget(child)
        pid = child.process.pid if child.process else 0
        code = child.bury()
        pause = max(0.0, child.start_at - time.monotonic())
        line = f"child_ended name={child.spec.name} pid={pid} exit_code={code} restart_in={pause:.1f}s"
        if code == 0:
            self._log_warning(line)
        elif code == CANNOT_START:
            self._log_error(f"{line} reason={child.refusal}")
        else:
            self._log_error(line)
        self._on_death(child)

    def _mend(self) -> None:
        for child in self.children:
            if child.spec.name in self._ending:
                continue
            if child.process is None and time.monotonic() >= child.start_at:
                try:
                    self._start(child)
                except OSError as error:
                    child.start_at = time.monotonic() + _NO_EVENT_PAUSE
                    self._log_error(f"child_not_started name={child.spec.name} reason={error}")
                    continue
                if self._accepting:
                    child.send({"Command": "accept"})
            elif child.is_silent:
                self._log_error(f"child_hung name={child.spec.name} action=kill")
                child.signal(signal.SIGKILL)

    def _start(self, child: Child) -> None:
        child.start()
        self._selector.register(child.fileno(), selectors.EVENT_READ, child)

    def _forget(self, child: Child) -> None:
        try:
            self._selector.unregister(child.fileno())
        except KeyError:
            pass  # its end has been seen already

    def status(self) -> list[dict[str, Any]]:
        """What `/isen/status` says of each child."""
        return [
            {
                "Name": child.spec.name,
                "Pid": child.process.pid if child.process else None,
                "Ready": child.is_ready,
                "Restarts": child.restarts,
                "ReportAgeSeconds": round(child.silence, 3),
                **child.report,
            }
            for child in self.children
        ]
