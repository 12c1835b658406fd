"""A disk with a volatile cache, in this process: it sees each write and each flush, and tells what a power cut leaves.

The kernel meets it as a file (FUSE, mounted on a regular file) below a loop device, so a real file system works on it.
A disk promises only that what was written before a completed flush stays. Of what came later each block may have
reached the platters or not, in any order: `survivors` draws one of these outcomes.

Written against the kernel's FUSE protocol 7.x (include/uapi/linux/fuse.h) because only six requests are needed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

BLOCK: Final = 4096  # bytes; a block is written whole or not at all
_REQUEST: Final = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, padding
_ANSWER: Final = struct.Struct("<IiQ")  # length, error, unique
_TRANSFER: Final = struct.Struct("<QQIIQII")  # handle, offset, size, flags, lock owner, flags, padding
_LARGEST_WRITE: Final = 128 * 1024
_MINOR: Final = 31  # of the protocol's version
_QUEUE: Final = 16  # requests
_UNANSWERED: Final = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET
_ASYNC_READ, _BIG_WRITES = 1, 1 << 5
_DIRECT_IO: Final = 1  # the kernel keeps no pages of the file: the file system above has its own
_REGULAR_FILE: Final = 0o100600
_NODEV_NOSUID: Final = 4 | 2


class Disk:
    """Serves one image from memory, in a thread of its own, until it is closed."""

    GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE, FSYNC, FLUSH, INIT = 3, 4, 14, 15, 16, 18, 20, 25, 26  # opcodes

    def __init__(self, image: bytes, mount_point: Path, events: int, on_event: Callable[[bytes], None]) -> None:
        """`mount_point` is an empty regular file. What can be read from the pipe `events` goes to `on_event`, in the
        disk's thread, before the next request is served: both are seen in the order in which they happened.
        """
        self.content = bytearray(image)
        self.stable = bytearray(image)  # as of the last completed flush
        self.unflushed: list[tuple[int, bytes]] = []  # offset and bytes of each write since then
        self.after_request: Callable[[], None] = lambda: None  # called in the disk's thread
        self._mount_point = mount_point
        self._events = events
        self._on_event = on_event
        os.set_blocking(events, False)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode={_REGULAR_FILE:o},user_id=0,group_id=0"
        _mount("fuse", mount_point, "fuse", _NODEV_NOSUID, options)
        self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the disk away; nothing must be mounted on it any more."""
        _unmount(self._mount_point)
        self._thread.join(10)
        os.close(self._device)

    def survivors(self, source: random.Random, image: mmap.mmap) -> None:
        """Write an image that may be found after a power cut at this moment. For the disk's own thread."""
        blocks = [
            (offset + start, data[start : start + BLOCK])
            for offset, data in self.unflushed
            for start in range(0, len(data), BLOCK)
        ]
        match source.randrange(4):
            case 0:
                pass  # the cache was written through: all of it has survived
            case 1:
                blocks = []
            case 2:
                blocks = blocks[: source.randint(0, len(blocks))]
            case 3:
                blocks = [block for block in blocks if source.random() < 0.5]  # in any order
        image[:] = self.stable
        for offset, data in blocks:
            image[offset : offset + len(data)] = data

    def _serve(self) -> None:
        waiting = select.poll()
        waiting.register(self._device, select.POLLIN)
        waiting.register(self._events, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in waiting.poll()]
            if not self._read_events():
                waiting.unregister(self._events)
                self._events = -1
            if self._device in ready:
                try:
                    request = os.read(self._device, _LARGEST_WRITE + 4096)
                except OSError as error:
                    if error.errno == errno.ENODEV:
                        return  # unmounted
                    if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                        continue
                    raise
                self._read_events()  # what was said before this request was made
                self._answer(request)
            self.after_request()

    def _read_events(self) -> bool:
        while self._events >= 0:
            try:
                data = os.read(self._events, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._on_event(data)
        return True

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, *_ = _REQUEST.unpack_from(request)
        if opcode in _UNANSWERED:
            return
        try:
            body, error = self._do(opcode, request[_REQUEST.size :]), 0
        except OSError as refusal:
            body, error = b"", -(refusal.errno or errno.EIO)
        try:
            os.write(self._device, _ANSWER.pack(_ANSWER.size + len(body), error, unique) + body)
        except FileNotFoundError:
            pass  # whoever asked was killed meanwhile and does not wait for the answer

    def _do(self, opcode: int, body: bytes) -> bytes:
        match opcode:
            case self.READ:
                _, offset, size, *_ = _TRANSFER.unpack_from(body)
                answer = bytes(self.content[offset : offset + size])
            case self.WRITE:
                _, offset, size, *_ = _TRANSFER.unpack_from(body)
                data = body[_TRANSFER.size : _TRANSFER.size + size]
                self.content[offset : offset + size] = data
                self.unflushed.append((offset, data))
                answer = struct.pack("<II", size, 0)
            case self.FSYNC:
                for offset, data in self.unflushed:
                    self.stable[offset : offset + len(data)] = data
                self.unflushed.clear()
                answer = b""
            case self.FLUSH | self.RELEASE:
                answer = b""
            case self.OPEN:
                answer = struct.pack("<QII", 1, _DIRECT_IO, 0)
            case self.GETATTR | self.SETATTR:
                answer = struct.pack("<QII", 3600, 0, 0) + self._attributes()
            case self.INIT:
                answer = _initialized(body)
            case _:
                raise OSError(errno.ENOSYS, "not needed")
        return answer

    def _attributes(self) -> bytes:
        size = len(self.content)
        return struct.pack("<6Q10I", 1, size, size // 512, 0, 0, 0, 0, 0, 0, _REGULAR_FILE, 1, 0, 0, 0, BLOCK, 0)


def _initialized(body: bytes) -> bytes:
    major, minor, read_ahead, flags = struct.unpack_from("<IIII", body)
    wanted = flags & (_ASYNC_READ | _BIG_WRITES)
    version = major, min(minor, _MINOR)
    return struct.pack("<IIIIHHII28x", *version, read_ahead, wanted, _QUEUE, _QUEUE, _LARGEST_WRITE, 1)


_libc: Final = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount {kind}", str(target))


def _unmount(target: Path) -> None:
    if _libc.umount2(os.fsencode(target), 0):
        raise OSError(ctypes.get_errno(), "cannot unmount", str(target))
