"""A RIS that takes performed procedure steps: pynetdicom, another implementation of the protocol than ours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

MPPS = "1.2.840.10008.3.1.2.3.3"

Answer = Callable[[str, str, Dataset], int]  # of (operation, SOP Instance UID, attributes) → status


class Ris:
    """Keeps the messages it has taken, in their order; `answer` decides, after the message has arrived."""

    def __init__(self, port: int, ae_title: str = "RIS") -> None:
        self.port = port
        self.messages: list[tuple[str, str, Dataset]] = []
        self.callers: list[str] = []
        self.answer: Answer = lambda _operation, _uid, _attributes: 0x0000
        self.aborts = 0  # associations still to be aborted in place of an answer
        self._ae = AE(ae_title)
        self._ae.add_supported_context(MPPS)
        self._lock = threading.Lock()
        self._server: Any = None

    def start(self) -> Self:
        handlers = [(evt.EVT_N_CREATE, self._create), (evt.EVT_N_SET, self._set)]
        self._server = self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def of(self, uid: str) -> list[tuple[str, Dataset]]:
        """The messages about one step."""
        with self._lock:
            return [(operation, attributes) for operation, one, attributes in self.messages if one == uid]

    def _create(self, event: Any) -> tuple[Any, Dataset | None]:
        return self._take(event, "N-CREATE", event.request.AffectedSOPInstanceUID, event.attribute_list)

    def _set(self, event: Any) -> tuple[Any, Dataset | None]:
        return self._take(event, "N-SET", event.request.RequestedSOPInstanceUID, event.modification_list)

    def _take(self, event: Any, operation: str, uid: str, attributes: Dataset) -> tuple[Any, Dataset | None]:
        attributes.decode()
        with self._lock:
            self.callers.append(str(event.assoc.requestor.ae_title))
            self.messages.append((operation, str(uid), attributes))
            if self.aborts:
                self.aborts -= 1
                event.assoc.abort()
                return 0x0110, None
        status = self.answer(operation, str(uid), attributes)
        if status == 0xA710:  # PS3.4 Table F.7.2-2
            response = Dataset()
            response.Status = 0x0110
            response.ErrorID = 0xA710
            return response, None
        return status, attributes if status == 0 else None
