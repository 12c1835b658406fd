"""A DIMSE request that records its answers: what a service sees of the upper layer, without a network."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from scp.request import AcceptedContext, Peer

PEER: Final = Peer("WORKSTATION", "ISEN", "192.0.2.7", None)


def encode(dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The bare data set as it travels."""
    syntax = UID(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax.is_implicit_VR
    buffer.is_little_endian = syntax.is_little_endian
    write_dataset(buffer, dataset)
    return buffer.getvalue()


@dataclass
class Response:
    """One recorded response."""

    status: int
    identifier: Dataset | bytes | None
    fields: dict[str, object]


@dataclass
class RecordedRequest:
    """Implements `scp.request.Request`; `on_respond` and `on_store` let a test interfere."""

    message: Any
    sop_class: str
    encoded: bytes = b""
    keys: Dataset | None = None
    transfer_syntax: str = ExplicitVRLittleEndian
    extended_negotiation: bytes = b""
    peer: Peer = PEER
    on_respond: Callable[[RecordedRequest], None] = lambda _request: None
    on_store: Callable[[str, str, str, bytes], int] = lambda *_instance: 0
    storable: dict[str, tuple[str, ...]] = field(default_factory=dict)
    is_cancelled: bool = False
    responses: list[Response] = field(default_factory=list)
    events: list[tuple[str, int, Dataset]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data_set: BinaryIO = io.BytesIO(self.encoded)
        self.data_set_length = len(self.encoded)

    @property
    def context(self) -> AcceptedContext:
        return AcceptedContext(1, UID(self.sop_class), UID(self.transfer_syntax))

    def identifier(self) -> Dataset:
        assert self.keys is not None
        return self.keys

    def respond(self, status: int, identifier: Dataset | bytes | None = None, **fields: object) -> None:
        if isinstance(identifier, bytes):  # encoded by the service
            syntax = UID(self.transfer_syntax)
            file = io.BytesIO(identifier)
            identifier = read_dataset(file, syntax.is_implicit_VR, syntax.is_little_endian)
        self.responses.append(Response(status, identifier, fields))
        self.on_respond(self)

    def storable_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        return self.storable.get(sop_class_uid, ())

    def peer_speaks(self, within: float) -> bool:
        """It waits: for no time at all, and for nothing."""
        return False

    def report_event(self, sop_instance_uid: str, event_type_id: int, information: Dataset) -> int:
        self.events.append((sop_instance_uid, event_type_id, information))
        return 0

    def store(self, encoded: BinaryIO, sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> int:
        return self.on_store(sop_class_uid, sop_instance_uid, transfer_syntax, encoded.read())

    @property
    def statuses(self) -> list[int]:
        return [response.status for response in self.responses]

    @property
    def final(self) -> Response:
        return self.responses[-1]
