"""A connected, non-blocking socket, plain or TLS, that waits in poll(2) and only as long as it may."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final

from scp.upper_layer.errors import AssociationEnded

Bytes = bytes | bytearray | memoryview

MOST_PARTS: Final = 128  # that go out in one system call, which would take 1024
_LARGEST_JOIN = 65536  # bytes of a TLS record's plain text we glue together; larger parts go out on their own


class Transport:
    """Moves bytes for one association; used by one thread at a time, except `shut_down`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        # Modalities wait for our short responses, and most leave Nagle on: neither side may wait for the other's ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # without an idle time-out dead peers would stay
        self.socket = sock
        self._tls = isinstance(sock, ssl.SSLSocket)

    def fileno(self) -> int:
        return self.socket.fileno()

    def receive_into(self, view: memoryview) -> int | None:
        """Read what is there: the number of bytes, 0 at the end of the stream, None if nothing has arrived yet.

        Raises:
            AssociationEnded: the connection failed.
        """
        try:
            received = self.socket.recv_into(view)
            # The kernel clears the flag by itself, so it is set after every read; without it a sender with Nagle on
            # holds its last segment back until our delayed ACK (35 instead of 391 images per second).
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._wait(select.POLLOUT, 1.0)
            return None
        except OSError as error:
            raise AssociationEnded(f"the connection failed: {type(error).__name__}") from error
        return received

    def is_readable(self) -> bool:
        """Whether `receive_into` would return something now; never blocks."""
        return self.wait_readable(0)

    def wait_readable(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds (None = for ever) for something to read; False if nothing came."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        return self._wait(select.POLLIN, timeout)

    def send(self, parts: Sequence[Bytes], timeout: float | None) -> None:
        """Send all of `parts`; the peer may not pause for more than `timeout` seconds.

        Raises:
            AssociationEnded: the connection failed or the peer stopped reading.
        """
        waiting = self._prepare(parts)
        while waiting:
            try:
                sent = self.socket.send(waiting[0]) if self._tls else self.socket.sendmsg(waiting[:MOST_PARTS])
            except (BlockingIOError, ssl.SSLWantWriteError):
                if not self._wait(select.POLLOUT, timeout):
                    raise AssociationEnded("the peer stopped reading") from None
                continue
            except ssl.SSLWantReadError:
                if not self._wait(select.POLLIN, timeout):
                    raise AssociationEnded("the peer stopped sending") from None
                continue
            except OSError as error:
                raise AssociationEnded(f"the connection failed: {type(error).__name__}") from error
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.pop(0))
            if sent:
                waiting[0] = waiting[0][sent:]

    def interrupt(self, last_words: bytes) -> None:
        """Send `last_words` if that is safe, then end both directions; a thread that waits here fails.

        Any thread may call it. Over TLS nothing is sent: one TLS state cannot serve two threads.
        """
        if not self._tls:
            with contextlib.suppress(AssociationEnded):
                self.send([last_words], 0)
        with contextlib.suppress(OSError):
            # Not SSLSocket's: it would drop the TLS state under the feet of the thread that is using it.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def end_output(self) -> None:
        """Tell the peer that nothing follows; what it still sends can be read. TLS has no such half end."""
        if not self._tls:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def _prepare(self, parts: Sequence[Bytes]) -> list[memoryview]:
        if self._tls and sum(map(len, parts)) <= _LARGEST_JOIN:
            return [memoryview(b"".join(parts))]
        return [memoryview(part) for part in parts if part]

    def _wait(self, event: int, timeout: float | None) -> bool:
        poll = select.poll()  # no limit of 1024 descriptors, unlike select(2)
        poll.register(self.socket, event)
        return bool(poll.poll(None if timeout is None else max(0, timeout) * 1000))


def deadline_in(seconds: float | None) -> float | None:
    """The monotonic time `seconds` from now; None stays None: no deadline."""
    return None if seconds is None else time.monotonic() + seconds


def remaining(deadline: float | None) -> float | None:
    """Seconds left until `deadline`, at least 0; None: no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
