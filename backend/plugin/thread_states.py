"""Keeps what Python knows of Orthanc's threads from one callback to the next.

For each callback the Python plugin calls PyGILState_Ensure, which makes a state for a thread that has none, and
PyGILState_Release, which deletes it again: allocations, and a stack for Python's frames that is mapped and unmapped,
all of it under the GIL, six times for an image that is stored. One PyGILState_Ensure more than there are releases, once
per thread, keeps the state until the interpreter's end, which frees it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

MAXIMUM: Final = 256  # threads, some of which live as long as one archive; each keeps 17 KB


class ThreadStates:
    """The states that are kept. For callbacks of Orthanc, which hold the GIL."""

    def __init__(self, ensure: Callable[[], Any] = ctypes.pythonapi.PyGILState_Ensure) -> None:
        """`ensure` is called in a thread whose state is to be kept."""
        self._ensure = ensure
        self._threads: set[int] = set()  # an identifier can come back: then that thread is only slower

    def kept(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """The callback, made to keep the state of each thread that calls it."""

        def call(*arguments: Any) -> Any:
            thread = get_ident()
            if thread not in self._threads and len(self._threads) < MAXIMUM:
                self._threads.add(thread)
                self._ensure()
            return callback(*arguments)

        return call
