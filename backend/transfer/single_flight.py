"""One piece of work per name however many ask for it: the first does it, the others wait for its result."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class FetchedNothing(Exception):
    """Of a flight ahead of its readers, who try by themselves."""


@dataclass
class Flight:
    landed: threading.Event = field(default_factory=threading.Event)
    users: int = 0
    is_ahead: bool = False
    descriptor: int | None = None
    error: Exception | None = None


class SingleFlight:
    """Shares file descriptors. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}

    def descriptor(self, name: str, bring: Callable[[], int], *, is_ahead: bool = False) -> int:
        """A read-only descriptor of our own, at offset 0, of the file that `bring` opened for whoever asked first.

        The caller closes it. `bring` must end in bounded time, because everybody waits for it. `is_ahead`: it tries
        less hard than others would, so its failure is not theirs.

        Raises:
            Exception: whatever `bring` raised, to each who asked.
        """
        while True:
            with self._lock:
                flight = self._flights.get(name)
                leads = flight is None
                if flight is None:
                    flight = self._flights[name] = Flight(is_ahead=is_ahead)
                flight.users += 1
            try:
                if leads:
                    self._fly(name, flight, bring)
                else:
                    flight.landed.wait()
                if flight.error is None:
                    # not dup(2): duplicates share one offset
                    return os.open(f"/proc/self/fd/{flight.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
                if leads or not flight.is_ahead:
                    raise _again(flight.error)
            finally:
                self._leave(flight)

    @contextmanager
    def ahead(self, name: str) -> Iterator[Flight | None]:
        """Do it before anybody asks: the block sets `descriptor`, and whoever asks meanwhile shares it.

        None: it is being done. The block may try less hard than a reader would: its failure is nobody's but the
        caller's.
        """
        with self._lock:
            flight = None if name in self._flights else Flight(users=1, is_ahead=True)
            if flight is not None:
                self._flights[name] = flight
        if flight is None:
            yield None
            return
        try:
            yield flight
        finally:
            if flight.descriptor is None:
                flight.error = FetchedNothing(name)
            self._land(name, flight)
            self._leave(flight)

    def _fly(self, name: str, flight: Flight, bring: Callable[[], int]) -> None:
        try:
            flight.descriptor = bring()
        except Exception as error:  # noqa: BLE001 - handed to every caller
            flight.error = error
        finally:
            self._land(name, flight)

    def _land(self, name: str, flight: Flight) -> None:
        with self._lock:
            del self._flights[name]
        flight.landed.set()

    def _leave(self, flight: Flight) -> None:
        with self._lock:
            flight.users -= 1
            is_last = flight.users == 0
        if is_last and flight.descriptor is not None:
            os.close(flight.descriptor)


def _again(error: Exception) -> Exception:
    """The same error for one more thread; raising one object in several mixes their tracebacks."""
    copy = type(error)(*error.args)
    copy.__cause__ = error
    return copy
