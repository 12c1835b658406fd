"""An association we open to send instances: C-MOVE's outgoing side, event-driven and with TCP_NODELAY.

    with open_association("10.0.0.7", 104, "ISEN", "VIEWER", [(CTImageStorage, [JPEGBaseline8Bit])]) as association:
        status = association.store(encoded, CTImageStorage, instance_uid, ExplicitVRLittleEndian, originator)

Not thread-safe: one thread uses an association at a time; open several to send in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from config.settings import TlsSettings

ProposedContext = tuple[str, Sequence[str]]  # abstract syntax, transfer syntaxes in order of preference


class AssociationRefused(Exception):
    """The peer could not be reached or did not accept: a retry may help; the text says which of the two."""


@dataclass(frozen=True)
class MoveOriginator:
    """Who asked for the C-MOVE this C-STORE belongs to, PS3.7 9.1.1.1.6 and 9.1.1.1.7."""

    ae_title: str
    message_id: int


class StoreAssociation:
    """An established association on which we are the SCU of the Storage service class."""

    def accepts(self, sop_class_uid: str, transfer_syntax: str) -> bool:
        """Whether the peer accepted this class with exactly this transfer syntax."""
        raise NotImplementedError

    def accepted_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        """What the peer accepted for this class, in the order of context IDs; empty if nothing."""
        raise NotImplementedError

    def store(
        self,
        encoded: BinaryIO,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        move_originator: MoveOriginator | None = None,
    ) -> int:
        """Send one instance from `encoded`'s position to its end (bare data set) and return the peer's status.

        Raises:
            scp.statuses.NoSuitableContext: not accepted by the peer; nothing was sent.
            scp.upper_layer.AssociationEnded: the peer is gone or did not answer in time; the association is closed.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Release in order and close; never raises, a peer that does not answer is aborted."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once, from any thread; a `store` under way raises AssociationEnded."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release, or abort when an exception passes."""
        if error is None:
            self.release()
        else:
            self.abort()


def open_association(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    contexts: Sequence[ProposedContext],
    *,
    tls: TlsSettings | None = None,
    connect_timeout: float | None = 10.0,
    response_timeout: float | None = 60.0,
    maximum_pdu_length: int = 131072,
) -> StoreAssociation:
    """Connect, and TLS if asked, and negotiate; at most 128 contexts (PS3.8 9.3.2.2).

    `connect_timeout` (seconds, None = for ever) bounds connecting, TLS handshake and negotiation together;
    `response_timeout` bounds the wait for each DIMSE response and each pause of the peer while we send.

    Raises:
        AssociationRefused: unreachable, TLS failed, rejected, or none of the contexts was accepted.
    """
    raise NotImplementedError
