"""Callbacks come from threads that Python has not made: here from one of the C library's."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest

from backend.plugin import thread_states
from backend.plugin.thread_states import ThreadStates

LIBC = ctypes.CDLL(None)
# callbacks of ctypes enter Python and leave it as the Python plugin does
WRITE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CLOSE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class CookieFunctions(ctypes.Structure):
    """cookie_io_functions_t of fopencookie(3)."""

    _fields_ = (("read", ctypes.c_void_p), ("write", WRITE), ("seek", ctypes.c_void_p), ("close", CLOSE))


def called_twice(function: Callable[[], Any]) -> None:
    """Call it twice in one foreign thread that is not in Python in between.

    The thread closes a file, so that what is buffered is written first.
    """

    def write(_cookie: int, _data: int, size: int) -> int:
        function()
        return size

    def close(_cookie: int) -> int:
        function()
        return 0

    functions = CookieFunctions(None, WRITE(write), None, CLOSE(close))
    LIBC.fopencookie.restype = ctypes.c_void_p
    file = ctypes.c_void_p(LIBC.fopencookie(None, b"w", functions))
    LIBC.fputs(b"buffered", file)
    thread = ctypes.c_ulong()
    assert LIBC.pthread_create(ctypes.byref(thread), None, LIBC.fclose, file) == 0
    assert LIBC.pthread_join(thread, None) == 0


class Stateful:
    """Counts the calls of a thread as long as Python remembers that thread."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.seen: list[int] = []

    def __call__(self) -> None:
        self.local.calls = getattr(self.local, "calls", 0) + 1
        self.seen.append(self.local.calls)


def test_python_forgets_a_foreign_thread_between_two_callbacks() -> None:
    function = Stateful()
    called_twice(function)
    assert function.seen == [1, 1]


def test_the_state_of_a_thread_is_kept() -> None:
    function = Stateful()
    called_twice(ThreadStates().kept(function))
    assert function.seen == [1, 2]


def test_several_callbacks_keep_it_once() -> None:
    ensured: list[int] = []
    states = ThreadStates(lambda: ensured.append(threading.get_ident()))
    for callback in (states.kept(lambda: None), states.kept(lambda: None)):
        callback()
        callback()
    assert ensured == [threading.get_ident()]


def test_threads_that_come_and_go_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_states, "MAXIMUM", 1)
    ensured: list[int] = []
    states = ThreadStates(lambda: ensured.append(threading.get_ident()))
    callback = states.kept(lambda: "answer")
    assert callback() == "answer"
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(callback()))
    thread.start()
    thread.join()
    assert answers == ["answer"]
    assert ensured == [threading.get_ident()]


def test_arguments_answers_and_errors_pass() -> None:
    states = ThreadStates(lambda: None)
    assert states.kept(lambda *arguments: arguments)(1, "two") == (1, "two")
    with pytest.raises(KeyError):
        states.kept(lambda: {}["missing"])()
