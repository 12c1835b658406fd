"""A modality that asks for storage commitment: pynetdicom, another implementation of the protocol than ours."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF

PUSH_MODEL = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"


@dataclass(frozen=True)
class Report:
    """An N-EVENT-REPORT that has arrived."""

    event_type: int
    information: Dataset
    on_own_association: bool  # the one the request was sent on
    calling_ae_title: str

    @property
    def committed(self) -> set[str]:
        return {item.ReferencedSOPInstanceUID for item in self.information.get("ReferencedSOPSequence", [])}

    @property
    def failed(self) -> dict[str, int]:
        """SOP Instance UID: Failure Reason."""
        items = self.information.get("FailedSOPSequence", [])
        return {item.ReferencedSOPInstanceUID: item.FailureReason for item in items}


def action_information(transaction_uid: str | None, references: Sequence[tuple[str, str]]) -> Dataset:
    """Table J.3-1; references are SOP class and instance."""
    information = Dataset()
    if transaction_uid is not None:
        information.TransactionUID = transaction_uid
    items = []
    for sop_class, sop_instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = sop_instance
        items.append(item)
    information.ReferencedSOPSequence = items
    return information


@dataclass
class CommitmentPeer:
    """Requests commitment, and listens for reports; `status` is what it answers to them."""

    port: int  # of the SCP it asks
    ae_title: str = "MODALITY"
    status: int = 0x0000
    reports: queue.Queue[Report] = field(default_factory=queue.Queue)
    requests: list[int] = field(default_factory=list)  # statuses of N-ACTION responses
    _answering: dict[Association, Report] = field(default_factory=dict)  # reports whose response is not sent yet
    _server: Any = None
    _association: Association | None = None

    def listen(self, port: int) -> Self:
        """Accept reports on associations of the SCP's."""
        ae = AE(self.ae_title)
        ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=self._handlers())
        return self

    def close(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server = None

    def associate(self) -> Association:
        ae = AE(self.ae_title)
        ae.add_requested_context(PUSH_MODEL)
        association = ae.associate(
            "127.0.0.1",
            self.port,
            ae_title="ORTHANC",
            ext_neg=[build_role(PUSH_MODEL, scu_role=True)],
            evt_handlers=self._handlers(),
        )
        assert association.is_established
        return association

    def request(
        self,
        *references: tuple[str, str],
        transaction_uid: str | None = None,
        stay: float = 0.0,
        information: Dataset | None = None,
        action_type: int = 1,
        instance: str = INSTANCE,
    ) -> int:
        """Send an N-ACTION, keep the association for `stay` seconds or until a report has come; returns the status."""
        information = information or action_information(transaction_uid or generate_uid(), references)
        self._association = association = self.associate()
        status, _ = association.send_n_action(information, action_type, PUSH_MODEL, instance)
        deadline = time.monotonic() + stay
        while time.monotonic() < deadline and self.reports.empty():
            time.sleep(0.02)
        association.release()
        self._association = None
        return int(status.Status)

    def send_report(self, transaction_uid: str, references: Sequence[tuple[str, str]]) -> int:
        """Say that all of them are committed; returns the status."""
        ae = AE(self.ae_title)
        ae.add_requested_context(PUSH_MODEL)
        role = build_role(PUSH_MODEL, scp_role=True)
        association = ae.associate("127.0.0.1", self.port, ae_title="ORTHANC", ext_neg=[role])
        assert association.is_established
        event = action_information(transaction_uid, references)  # Table J.3-2 asks for no more
        status, _ = association.send_n_event_report(event, 1, PUSH_MODEL, INSTANCE)
        association.release()
        return int(status.Status)

    def report(self, timeout: float = 20.0) -> Report:
        """The next report."""
        return self.reports.get(timeout=timeout)

    def _take(self, event: Any) -> tuple[int, None]:
        same = event.assoc is self._association
        calling = event.assoc.requestor.ae_title
        self._answering[event.assoc] = Report(event.event_type, event.event_information, same, calling)
        return self.status, None

    def _sent(self, event: Any) -> None:
        """A report counts once its response is sent: whoever releases before has not answered it."""
        if isinstance(event.pdu, P_DATA_TF) and event.assoc in self._answering:
            self.reports.put(self._answering.pop(event.assoc))

    def _handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self._take), (evt.EVT_PDU_SENT, self._sent)]
