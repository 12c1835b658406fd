"""A thread for each association that is busy, and the way back to the event loop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from scp.establishment import Rejection
from scp.parking import Entry
from scp.upper_layer.association import Association, Outcome
from scp.upper_layer.errors import AssociationEnded
from scp.upper_layer.transport import Transport

log = logging.getLogger(__name__)

_PATIENCE: Final = 0.25  # seconds a thread waits for the next message before it lets go


@dataclass(frozen=True)
class Returned:
    """What a thread gives back."""

    transport: Transport
    entry: Entry
    association: Association | None  # None: the peer left before there was one, was rejected, or our code failed
    outcome: Outcome
    rejection: Rejection | None = None  # which is still to be sent


class ServiceThreads:
    """Starts threads and collects what they return. The event loop calls; `wake` is how a thread calls back."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._returned: deque[Returned] = deque()
        self._busy: set[Association] = set()  # threads add and remove
        self.running = 0

    def serve(self, association: Association, entry: Entry) -> None:
        """Serve an association until it is idle or over."""
        self._start(lambda: association, association.stream.transport, entry)

    def establish(self, establish: Callable[[], Association], transport: Transport, entry: Entry) -> None:
        """Answer an association request, then serve; a `Rejection` that it raises is given back."""
        self._start(establish, transport, entry)

    def returned(self) -> Iterator[Returned]:
        """What threads have given back since the last call."""
        while self._returned:
            self.running -= 1
            yield self._returned.popleft()

    def interrupt(self) -> None:
        """End all associations that are being served; their threads notice when they next look."""
        for association in list(self._busy):
            log.warning("operation_interrupted calling_ae_title=%r", association.peer.calling_ae_title)
            association.interrupt()

    def _start(self, begin: Callable[[], Association], transport: Transport, entry: Entry) -> None:
        self.running += 1
        try:
            threading.Thread(target=self._run, args=(begin, transport, entry), daemon=True).start()
        except RuntimeError:  # the system gives no more threads: this peer has to go, the others stay
            log.error("association_failed reason=no_thread")  # noqa: TRY400 -- the trace adds nothing
            self._returned.append(Returned(transport, entry, None, Outcome.CLOSED))
            self._wake()

    def _run(self, begin: Callable[[], Association], transport: Transport, entry: Entry) -> None:
        association, outcome, rejection = None, Outcome.CLOSED, None
        try:
            association = begin()
            self._busy.add(association)
            outcome = association.serve(_PATIENCE)
        except Rejection as rejected:
            rejection = rejected
        except AssociationEnded as ended:
            log.info("association_ended reason=%s", ended)
        except Exception as error:  # noqa: BLE001 -- the boundary of a thread: the association ends, the worker goes on
            log.error("association_failed exception=%s", type(error).__name__)  # noqa: TRY400 -- no data of the peer
        finally:
            if association:
                self._busy.discard(association)
            self._returned.append(Returned(transport, entry, association, outcome, rejection))
            self._wake()
