"""The transfer process's end of the socket, as a thread of the test."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend import messages

Answer = Callable[[dict[str, Any]], tuple[dict[str, Any], list[int]] | None]


class Transfer:
    """Answers requests as the test says; None closes the connection without an answer."""

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self.woken = threading.Event()
        self.answer: Answer = lambda _: ({"Result": "ok"}, [])
        self._listener = messages.listen(path)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Any) -> None:
        with connection, contextlib.suppress(OSError):  # whoever asked has gone
            while self._serve_one(connection):
                pass

    def _serve_one(self, connection: Any) -> bool:
        request, _ = messages.receive(connection)
        if request["Operation"] == "wake":
            self.woken.set()
            return True
        self.requests.append(request)
        if request["Operation"] == "read":  # a hint, too
            return True
        if request["Operation"] == "deliver":
            return all(self._deliver(connection, name) for name, _ in request["Attachments"])
        answer = self.answer(request)
        if answer is None:
            return False
        try:
            messages.send(connection, *answer)
        finally:
            for descriptor in answer[1]:
                os.close(descriptor)
        return True

    def _deliver(self, connection: Any, name: str) -> bool:
        """Hand over what the test answers to who asks for this by itself."""
        answer = self.answer({"Operation": "deliver", "Name": name})
        if answer is None:
            return False
        reply, descriptors = answer
        files = [(name, reply.get("VerifiedAt", 0)) for _ in descriptors]
        try:
            messages.send(connection, {"Files": files, "Missing": [] if files else [name]}, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def close(self) -> None:
        self._listener.close()
