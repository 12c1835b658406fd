"""One DIMSE request as a service sees it: who asks, for what, and how to answer.

The upper layer makes a `Request` for each message it dispatches; a service answers through it and never touches the
association. That keeps the services free of sockets, and lets a test drive one with a recording fake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import UID

from config.settings import Modality


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of the association."""

    calling_ae_title: str  # without padding
    called_ae_title: str
    address: str  # IP address as text
    modality: Modality | None  # its entry in DicomModalities; None = unknown to us


@dataclass(frozen=True)
class AcceptedContext:
    """The presentation context the request came in."""

    context_id: int
    abstract_syntax: UID
    transfer_syntax: UID


class Request(Protocol):
    """A DIMSE request being answered."""

    @property
    def message(self) -> Any:
        """The pynetdicom primitive (`C_STORE`, `C_FIND`, …) with its command set attributes."""
        ...

    @property
    def peer(self) -> Peer: ...

    @property
    def context(self) -> AcceptedContext: ...

    @property
    def extended_negotiation(self) -> bytes:
        """The application information we answered for this SOP class; empty if none was negotiated."""
        ...

    @property
    def data_set(self) -> BinaryIO:
        """The encoded data set as received, at its start; empty when the message carries none.

        In memory or a file, whichever the upper layer chose; seekable; closed by the upper layer after the service.
        """
        ...

    @property
    def data_set_length(self) -> int:
        """Bytes of `data_set`."""
        ...

    def identifier(self) -> Dataset:
        """Decode the data set within the limits on length, depth and inflated size.

        Raises:
            scp.statuses.Refusal: it cannot be decoded; answer its status.
        """
        ...

    @property
    def is_cancelled(self) -> bool:
        """A C-CANCEL for this message has arrived, or the association has ended."""
        ...

    def respond(self, status: int, identifier: Dataset | bytes | None = None, **fields: object) -> None:
        """Send one response, encoding `identifier` (bytes: already encoded in the context's syntax).

        `fields` are further attributes of the response primitive by keyword, for example
        `NumberOfRemainingSuboperations`, or `ErrorComment` (cut to 64 characters of the default repertoire).

        Raises:
            scp.upper_layer.AssociationEnded: the peer is gone; there is nobody to answer.
        """
        ...

    def storable_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        """In which transfer syntaxes `store` can send instances of this class; empty if the peer takes none."""
        ...

    def peer_speaks(self, within: float) -> bool:
        """Whether the peer sends anything, or goes, within so many seconds; what it sends stays unread."""
        ...

    def report_event(self, sop_instance_uid: str, event_type_id: int, information: Dataset) -> int:
        """Send an N-EVENT-REPORT of the request's SOP class on this association, after the response, and return the
        peer's status. Requests of the peer's that cross it are served meanwhile.

        Raises:
            scp.upper_layer.AssociationEnded: the peer is gone; whether it took the report is unknown.
        """
        ...

    def store(self, encoded: BinaryIO, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> int:
        """Send one C-STORE sub-operation of a C-GET on this association and return the peer's status.

        `encoded` is the bare data set, without file meta information.

        Raises:
            scp.statuses.NoSuitableContext: the peer did not accept the SCP role for this class and syntax.
            scp.upper_layer.AssociationEnded: the peer is gone.
        """
        ...


@dataclass(frozen=True)
class Service:
    """One DIMSE service of one or more SOP classes: a line in `scp.services.SERVICES`."""

    name: str  # "C-FIND", as it appears in log lines
    dimse: str  # name of the pynetdicom primitive it answers: "C_FIND"
    permission: str  # the Allow* flag that governs it, as in config.settings.Modality: "allow_find"
    sop_classes: tuple[UID, ...]
    serve: Callable[[Request], None]
    # SOP Class Extended Negotiation: the requestor's application information to ours (PS3.7 D.3.3.5)
    negotiate: Callable[[bytes], bytes] | None = None
    report: Callable[[], dict[str, Any]] | None = None  # of what it has to say in `/isen/status`
