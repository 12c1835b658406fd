"""Runs inside Orthanc once: finds where its Python keeps the GIL's `locked` word, and holds the GIL on request.

The word lies at the same place in every process that has loaded the same libpython, so what is found here serves to
watch the other Orthancs from outside (`gil.py`). `GET /bench/gil` tells the place; `GET /bench/hold?share=…&held=…&
seconds=…` holds the GIL for a share of the time, `held` seconds at a time on average, and answers the share in truth.
"""

import ctypes
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import orthanc  # type: ignore[import-not-found]  # provided by Orthanc

_TRIALS = 50
_ATTEMPTS = 10
_LARGEST = 1 << 20  # bytes of _PyRuntime that are looked at; the main interpreter is part of it since 3.12


def _mappings() -> Iterator[tuple[int, int, int, str]]:
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            addresses, _mode, offset, _device, _inode, *path = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end, int(offset, 16), path[0].strip() if path else ""


def _find() -> dict[str, Any]:
    library, base = next(
        (path, start) for start, _, offset, path in _mappings() if "/libpython3" in path and not offset
    )
    runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.PyDLL(library), "_PyRuntime"))
    end = runtime
    for start, mapping_end, _, _ in sorted(_mappings()):
        if start <= end < mapping_end:  # .data and .bss are two mappings side by side
            end = mapping_end
    size = min(_LARGEST, end - runtime)
    buffer = ctypes.create_string_buffer(size)
    copy_without_gil = ctypes.CDLL(None).memcpy  # a CDLL gives up the GIL for the time of the call
    copy_without_gil.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    found: list[set[int]] = []

    def look() -> None:
        places: set[int] | None = None
        for _ in range(_TRIALS):
            copy_without_gil(buffer, runtime, size)
            free = memoryview(buffer).cast("B").cast("i").tolist()
            held = memoryview(ctypes.string_at(runtime, size)).cast("i").tolist()
            now = {index for index, pair in enumerate(zip(free, held, strict=True)) if pair == (0, 1)}
            places = now if places is None else places & now
        found.append(places or set())

    places: list[int] = []
    for _ in range(_ATTEMPTS):  # as long as somebody else took the GIL while it was given up
        found.clear()
        look()
        thread = threading.Thread(target=look)  # another thread: what belongs to the first one only does not change now
        thread.start()
        thread.join()
        places = sorted(found[0] & found[1])
        if places:
            break
    return {"Library": library, "Offsets": [runtime - base + 4 * place for place in places]}


def _hold(share: float, held: float, seconds: float) -> float:
    begin, busy = time.monotonic(), time.thread_time()
    while time.monotonic() - begin < seconds:
        stop = time.thread_time() + random.expovariate(1 / held)
        while time.thread_time() < stop:
            pass
        time.sleep(random.expovariate(1 / (held * (1 / share - 1))))
    return (time.thread_time() - busy) / (time.monotonic() - begin)


def _answer(output: Any, uri: str, **request: Any) -> None:
    if uri == "/bench/gil":
        answer = _PLACE
    else:
        options = {name: float(value) for name, value in request["get"].items()}
        answer = {"Share": _hold(**options)}
    output.AnswerBuffer(json.dumps(answer), "application/json")


_PLACE = _find()
orthanc.RegisterRestCallback("/bench/(gil|hold)", _answer)
