"""Answers requests on the socket the plugin has made; one thread for each connection.

The requests are those of `backend.plugin.transfer_client`, `scp.attachments` and `scp.deliveries`: fetch, fetch-range,
upload, confirm and prefetch; the hints wake and read, which have no reply; and deliver, whose replies come when the
files do, also while others are asked for. An error reply names its kind in one word, so that "S3 has no such object" is
never mixed up with "S3 cannot be asked".
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from backend import messages
from backend.object_key import is_attachment_name
from backend.transfer.confirmer import MAXIMUM_ATTACHMENTS, Expected
from backend.transfer.deliveries import File, HandOver
from backend.transfer.object_store.errors import ObjectStoreError
from backend.transfer.prefetch_requests import PrefetchRequests

log = logging.getLogger(__name__)

MAXIMUM_CONNECTIONS: Final = 512  # the plugin has one for each of Orthanc's threads, a worker up to 32
MAXIMUM_ANNOUNCED: Final = 200  # attachments in one message
_NOT_ANSWERED: Final = frozenset({"wake", "read", "deliver"})  # at once
_ACCEPT_PAUSE: Final = 0.1  # seconds, when accept(2) fails: too many open files, most likely


class Server:
    """Accepts connections until it is told to stop."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        fetch: Callable[[str], int],
        deliver_one: Callable[[str], File],
        deliver: Callable[[list[tuple[str, int]], HandOver], None],
        fetch_range: Callable[[str, int, int], int],
        upload: Callable[[str, float], None],
        wake: Callable[[], None],
        read: Callable[[str], None],
        prefetch: PrefetchRequests,
        confirm: Callable[[Sequence[Expected]], list[str]],
    ) -> None:
        """`fetch`, `deliver_one` and `fetch_range` give a descriptor that is closed here."""
        self._listener = listener
        self._fetch = fetch
        self._deliver_one = deliver_one
        self._deliver = deliver
        self._fetch_range = fetch_range
        self._upload = upload
        self._wake = wake
        self._read = read
        self._prefetch = prefetch
        self._confirm = confirm
        self._places = threading.Semaphore(MAXIMUM_CONNECTIONS)
        self._stop_read, self._stop_write = os.pipe()

    def start(self) -> None:
        self._listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def stop(self) -> None:
        """Accept no more connections; they wait in the listener's backlog for the next process."""
        os.close(self._stop_write)

    def _accept(self) -> None:
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        waiting.register(self._stop_read, select.POLLIN | select.POLLHUP)
        while True:
            self._places.acquire()
            if any(descriptor == self._stop_read for descriptor, _ in waiting.poll()):
                return
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                self._places.release()
                if not isinstance(error, BlockingIOError):
                    log.error("accept_failed reason=%s", error)  # noqa: TRY400 - one line per event
                    time.sleep(_ACCEPT_PAUSE)
                continue
            connection.setblocking(True)  # noqa: FBT003 - the standard library's signature
            threading.Thread(target=self._serve, args=(connection,), name="request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        peer = _Peer(connection)
        try:
            while self._serve_one(connection, peer):
                pass
        except OSError:
            pass  # the plugin is gone, or has stopped waiting
        finally:
            peer.close()
            self._places.release()

    def _serve_one(self, connection: socket.socket, peer: _Peer) -> bool:
        """Answer one request; whether there may be another."""
        try:
            request, descriptors = messages.receive(connection)
        except messages.Disconnected:
            return False
        except ValueError as error:
            messages.send(connection, _error("local", f"not a request: {error}"))
            return True
        for descriptor in descriptors:
            os.close(descriptor)
        if request.get("Operation") in _NOT_ANSWERED:
            self._begin(request, peer)
            return True
        try:
            reply, fetched = self._answer(request)
        except ObjectStoreError as error:
            messages.send(connection, _error(error.kind, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the plugin must not wait for ever
            log.error("request_failed operation=%.20r reason=%r", request.get("Operation"), error)  # noqa: TRY400
            messages.send(connection, _error("local", f"the transfer process failed: {error}"))
        else:
            try:
                messages.send(connection, reply, fetched)
            finally:
                for descriptor in fetched:
                    os.close(descriptor)
        return True

    def _begin(self, request: dict[str, Any], peer: _Peer) -> None:
        match request["Operation"]:
            case "wake":
                self._wake()
            case "read":
                self._read(str(request.get("Name")))
            case "deliver":
                self._deliver(_announced(request), peer.hand_over)

    def _answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        if request.get("Operation") == "confirm":
            return {"Result": "ok", "States": self._confirm(_expected(request))}, []
        if request.get("Operation") == "prefetch":
            return {"Result": "ok", "State": self._prefetched(request)}, []
        name = request.get("Name")
        if not isinstance(name, str) or not is_attachment_name(name):
            raise ValueError("the name is not that of an attachment")
        match request.get("Operation"):
            case "fetch" if request.get("For") == "send":
                file = self._deliver_one(name)
                return {"Result": "ok", "VerifiedAt": file.verified_at}, [file.descriptor]
            case "fetch":
                descriptor = self._fetch(name)
                return {"Result": "ok", "Size": os.fstat(descriptor).st_size}, [descriptor]
            case "fetch-range":
                start, end = int(request["Start"]), int(request["End"])
                if not 0 <= start < end:
                    raise ValueError("the range is not one")
                return {"Result": "ok"}, [self._fetch_range(name, start, end)]
            case "upload":
                timeout = float(request.get("Timeout", 0))
                self._upload(name, timeout)
                return {"Result": "ok"}, []
            case _:
                raise ValueError("there is no such operation")

    def _prefetched(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("Action"):
            case "add":
                return self._prefetch.add([str(resource) for resource in request["Resources"]])
            case "cancel":
                self._prefetch.cancel()
        return self._prefetch.state()


class _Peer:
    """Who is at the other end of a connection. Thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # so that nothing is sent to whoever gets the number of a closed descriptor

    def hand_over(self, files: Sequence[File], missing: Sequence[str]) -> bool:
        """As `HandOver`. Who does not read what it has asked for loses the connection, and so learns of it."""
        message = {"Files": [(file.name, file.verified_at) for file in files], "Missing": missing}
        descriptors = array.array("i", (file.descriptor for file in files))
        with self._lock:
            try:
                self._connection.sendmsg(
                    [json.dumps(message, separators=(",", ":")).encode()],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if files else [],
                    socket.MSG_DONTWAIT,
                )
            except OSError:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
                return False
        return True

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _expected(request: dict[str, Any]) -> list[Expected]:
    attachments = [Expected.of(fields) for fields in request["Attachments"]]
    if len(attachments) > MAXIMUM_ATTACHMENTS or not all(is_attachment_name(one.name) for one in attachments):
        raise ValueError(f"not a list of at most {MAXIMUM_ATTACHMENTS} attachments")
    return attachments


def _announced(request: dict[str, Any]) -> list[tuple[str, int]]:
    """Names and sizes; what is wrong is left out, as nobody waits for an answer."""
    attachments = request.get("Attachments")
    found = []
    for attachment in (attachments if isinstance(attachments, list) else [])[:MAXIMUM_ANNOUNCED]:
        match attachment:
            case [str(name), int(size)] if is_attachment_name(name) and size >= 0:
                found.append((name, size))
    return found


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"Result": "error", "Error": kind, "Message": message}
