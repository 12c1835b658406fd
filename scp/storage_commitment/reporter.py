"""Delivers reports on an association of ours: we open it, and propose to be its SCP (PS3.4 J.3.3.1)."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import DicomSettings, Modality
from scp.orthanc_client import OrthancError
from scp.retrieve.destination import tls_for
from scp.statuses import SUCCESS
from scp.storage_commitment.data_sets import (
    PUSH_MODEL_INSTANCE,
    STORAGE_COMMITMENT_PUSH_MODEL,
    event_information,
)
from scp.storage_commitment.transactions import Failures, Transaction
from scp.store_association import AssociationRefused, open_association
from scp.upper_layer import AssociationEnded
from scp.upper_layer.identifier import encode_identifier

_FIRST_PAUSE: Final = 2.0  # seconds in which a modality that was away is left alone; doubles
_LONGEST_PAUSE: Final = 3600.0


class NotDelivered(Exception):
    """The peer has not taken the report, or we do not know; it is sent again. The text is for the log."""


class Reporter:
    """Thread-safe."""

    def __init__(self, settings: DicomSettings, modalities: Callable[[], Sequence[Modality]]) -> None:
        """`modalities` is asked at each report: an address may have changed since the request."""
        self._settings = settings
        self._modalities = modalities
        self._lock = threading.Lock()
        self._away: dict[str, tuple[float, float]] = {}  # modality: left alone until (monotonic), the pause

    def deliver(self, transaction: Transaction, failures: Failures) -> None:
        """Return once the peer has taken the report.

        Raises:
            NotDelivered: see there.
        """
        until, pause = self._away.get(transaction.modality, (0.0, _FIRST_PAUSE / 2))
        if time.monotonic() < until:
            raise NotDelivered("the modality did not answer a moment ago")
        try:
            self._send(self._modality(transaction.modality), transaction, failures)
        except (AssociationRefused, AssociationEnded) as error:
            pause = min(pause * 2, _LONGEST_PAUSE)
            with self._lock:
                self._away[transaction.modality] = (time.monotonic() + pause, pause)
            raise NotDelivered(str(error)) from error
        with self._lock:
            self._away.pop(transaction.modality, None)

    def _modality(self, name: str) -> Modality:
        try:
            found = next((one for one in self._modalities() if one.name == name), None)
        except OrthancError as error:
            raise NotDelivered(str(error)) from error
        if found is None:
            raise NotDelivered("the modality is not in DicomModalities any more")
        return found

    def _send(self, modality: Modality, transaction: Transaction, failures: Failures) -> None:
        event_type, information = event_information(
            transaction.transaction_uid, transaction.references, failures, self._settings.ae_title
        )
        with open_association(
            modality.host,
            modality.port,
            transaction.called_ae_title,
            modality.ae_title,
            [(STORAGE_COMMITMENT_PUSH_MODEL, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])],
            tls=tls_for(modality, self._settings),
            connect_timeout=modality.timeout or self._settings.scu_timeout or None,
            maximum_pdu_length=self._settings.maximum_pdu_length,
            as_scp=True,
        ) as association:
            (syntax,) = association.accepted_transfer_syntaxes(STORAGE_COMMITMENT_PUSH_MODEL)
            status = association.report_event(
                STORAGE_COMMITMENT_PUSH_MODEL,
                PUSH_MODEL_INSTANCE,
                event_type,
                io.BytesIO(encode_identifier(information, UID(syntax))),
                syntax,
            )
        if status != SUCCESS:
            raise NotDelivered(f"the peer answered 0x{status:04X}")
