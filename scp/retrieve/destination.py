"""The destination of a C-MOVE: an association with a modality, opened anew when it is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeAlias

from config.settings import DicomSettings, Modality, TlsSettings
from scp.retrieve.read_ahead import EncodedInstance
from scp.retrieve.sub_operations import SubOperationFailed
from scp.store_association import (
    AssociationRefused,
    MoveOriginator,
    ProposedContext,
    StoreAssociation,
    open_association,
)
from scp.upper_layer import AssociationEnded

log = logging.getLogger(__name__)

Connect: TypeAlias = Callable[[Modality, Sequence[ProposedContext]], StoreAssociation]

LEAST_PATIENCE: Final = 60.0  # seconds for each C-STORE: an archive that is busy is slow, not away
MAXIMUM_LOSSES: Final = 3  # associations lost in a row, without an answer in between, until we give up


def connector(settings: DicomSettings) -> Connect:
    """How this worker reaches a modality; see `open_association` for what it raises."""

    def connect(modality: Modality, contexts: Sequence[ProposedContext]) -> StoreAssociation:
        return open_association(
            modality.host,
            modality.port,
            modality.local_ae_title or settings.ae_title,
            modality.ae_title,
            contexts,
            tls=tls_for(modality, settings),
            connect_timeout=modality.timeout or settings.scu_timeout or None,  # 0 = none, as Orthanc has it
            response_timeout=max(LEAST_PATIENCE, modality.timeout or settings.scu_timeout),
            maximum_pdu_length=settings.maximum_pdu_length,
        )

    return connect


def tls_for(modality: Modality, settings: DicomSettings) -> TlsSettings | None:
    """How connections to `modality` are encrypted; None: they are not.

    Raises:
        AssociationRefused: they should be and cannot.
    """
    if not modality.use_dicom_tls:
        return None
    if settings.scu_tls is None:  # UseDicomTls was changed through REST after the start
        raise AssociationRefused("UseDicomTls is true, but there is no DicomTlsCertificate to show")
    return settings.scu_tls


class Destination:
    """One modality and the contexts proposed to it. One thread sends; others may ask what was accepted.

    An association that is lost while an instance is sent is opened once more for it: the destination may have closed an
    idle one. After `MAXIMUM_LOSSES` in a row, or when it cannot be opened again, everything left fails at once.
    """

    def __init__(
        self, connect: Connect, modality: Modality, contexts: Sequence[ProposedContext], originator: MoveOriginator
    ) -> None:
        self._connect = connect
        self._modality = modality
        self._contexts = contexts
        self._originator = originator
        self._association: StoreAssociation | None = None
        self._accepted: StoreAssociation | None = None  # the latest association, ended or not
        self._losses = 0
        self._gone = ""  # why nothing more is tried

    def open(self) -> None:
        """Open the association.

        Raises:
            AssociationRefused: unreachable, rejected, or none of the contexts was accepted.
        """
        self._association = self._accepted = self._connect(self._modality, self._contexts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release, or abort when an exception passes."""
        if self._association is not None:
            if error is None:
                self._association.release()
            else:
                self._association.abort()

    def accepted_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        """What the destination accepted for this class."""
        return self._accepted.accepted_transfer_syntaxes(sop_class_uid) if self._accepted else ()

    def send(self, instance: EncodedInstance) -> int:
        """Send one instance and return the destination's status.

        Raises:
            SubOperationFailed: the destination is gone.
            NoSuitableContext: it did not accept the class in this transfer syntax.
        """
        start = instance.data_set.tell()
        for is_last in (self._association is None, True):
            instance.data_set.seek(start)
            try:
                status = self._sent(instance)
            except AssociationEnded as error:
                self._lost(error)
                if is_last or self._gone:
                    raise SubOperationFailed(f"association lost: {error}") from error
            else:
                self._losses = 0
                return status
        raise AssertionError  # the second turn returns or raises

    def _sent(self, instance: EncodedInstance) -> int:
        return self._usable().store(
            instance.data_set,
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax,
            self._originator,
        )

    def _usable(self) -> StoreAssociation:
        if self._gone:
            raise SubOperationFailed(self._gone)
        if self._association is None:
            try:
                self.open()
            except AssociationRefused as error:
                self._give_up(str(error))
                raise SubOperationFailed(self._gone) from error
        assert self._association is not None  # noqa: S101 - for the type checker
        return self._association

    def _lost(self, error: AssociationEnded) -> None:
        self._association = None
        self._losses += 1
        log.warning("move_association_lost destination=%r reason=%s", self._modality.ae_title, error)
        if self._losses >= MAXIMUM_LOSSES:
            self._give_up(f"{self._losses} associations lost in a row")

    def _give_up(self, reason: str) -> None:
        self._gone = reason
        log.warning("move_destination_failed destination=%r reason=%s", self._modality.ae_title, reason)
