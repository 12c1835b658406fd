"""Opening the association on which C-MOVE sends: who we are, whom we call, and with what patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from config.settings import DicomSettings, Modality
from scp.store_association import ProposedContext, StoreAssociation, open_association

Connect: TypeAlias = Callable[[Modality, Sequence[ProposedContext]], StoreAssociation]


def connector(settings: DicomSettings) -> Connect:
    """How this worker reaches a modality; the associations raise what `open_association` says."""

    def connect(modality: Modality, contexts: Sequence[ProposedContext]) -> StoreAssociation:
        timeout = modality.timeout or settings.scu_timeout or None  # 0 = none, as Orthanc reads DicomScuTimeout
        return open_association(
            modality.host,
            modality.port,
            modality.local_ae_title or settings.ae_title,
            modality.ae_title,
            contexts,
            tls=settings.scu_tls if modality.use_dicom_tls else None,
            connect_timeout=timeout,
            maximum_pdu_length=settings.maximum_pdu_length,
        )

    return connect
