"""C-STORE: a peer's instance goes to Orthanc as received (PS3.4 Annex B, Storage Service Class, level 2 Full).

The encoded data set is not decoded: a Part 10 header is put in front of it and both are posted to Orthanc. Success is
answered only after Orthanc has committed the instance, or, with `Acknowledge: "Received"`, once it is durable in the
journal from which Orthanc gets it a moment later.

    0x0000  stored, already stored, or filtered out by a filter of Orthanc's
    0xA700  Orthanc cannot store now: storage full, unreachable, an error of its own; the peer may send again
    0xA900  the data set's identifiers differ from those of the request
    0xC000  not a data set, or one without identifiers; nothing was stored
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID
from pynetdicom.presentation import AllStoragePresentationContexts

from scp.arrivals import Arrivals
from scp.origins import Origin, origin_of
from scp.orthanc_client import BAD_FILE_FORMAT, INEXISTENT_TAG, OrthancClient, OrthancError, OrthancRefused
from scp.part10 import FileMeta, file_header
from scp.received.hand_over import HandOver
from scp.received.journal import AlreadyWaiting, JournalFull
from scp.request import Request, Service
from scp.sop_common import (
    DEFLATED,
    LARGEST_INFLATED,
    NotADataSet,
    inflates_beyond,
    nests_beyond,
    read_sop_common,
)
from scp.statuses import CANNOT_UNDERSTAND, DATA_SET_DOES_NOT_MATCH, OUT_OF_RESOURCES, SUCCESS, Refusal

log = logging.getLogger(__name__)

STORAGE_SOP_CLASSES: Final = tuple(UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts)
# levels; Orthanc parses by recursion, and on a thread of its REST API 1.10.1 crashes at 50
DEEPEST: Final = 32
BLOCK_SIZE: Final = 1024 * 1024  # bytes read from the data set at once
ROOM_PATIENCE: Final = 10.0  # seconds a sender is made to wait while the journal is full
TURN_PATIENCE: Final = 60.0  # seconds, while an older instance of the same UID is owed to Orthanc


@dataclass(frozen=True)
class StoreService:
    """Serves C-STORE requests of any storage SOP class."""

    client: OrthancClient
    note_origin: Callable[[Origin], None] = lambda _origin: None
    received: HandOver | None = None  # also after Acknowledge was "Received": until all of that is handed over
    acknowledges_received: bool = False
    arrivals: Arrivals | None = None  # None: there is no spool beside this worker

    def service(self) -> Service:
        report = self.received.report if self.received else None
        return Service("C-STORE", "C_STORE", "allow_store", STORAGE_SOP_CLASSES, self.serve, report=report)

    def serve(self, request: Request) -> None:
        try:
            self._store(request)
        except Refusal as refusal:
            log.warning(
                "store_refused status=0x%04X calling_ae_title=%r address=%s bytes=%d reason=%s",
                refusal.status,
                request.peer.calling_ae_title,
                request.peer.address,
                request.data_set_length,
                refusal.__cause__ or refusal.comment,
            )
            request.respond(refusal.status, ErrorComment=refusal.comment)
        else:
            request.respond(SUCCESS)

    def _store(self, request: Request) -> None:
        meta = _checked_meta(request)
        header = file_header(meta, request.peer.calling_ae_title)

        def body() -> Iterator[bytes]:
            request.data_set.seek(0)
            yield header
            while block := request.data_set.read(BLOCK_SIZE):
                yield block

        length = len(header) + request.data_set_length
        if self.received and self._keep(self.received, request, body, length):
            return
        try:
            with self.arrivals.copied(body, length) if self.arrivals else nullcontext(body) as posted:
                stored = self.client.post_instance(posted, length)
        except OrthancRefused as error:
            if error.error_code in (BAD_FILE_FORMAT, INEXISTENT_TAG):
                raise Refusal(CANNOT_UNDERSTAND, "the data set cannot be parsed") from error
            raise Refusal(OUT_OF_RESOURCES, "the archive cannot store the instance") from error
        except OrthancError as error:
            raise Refusal(OUT_OF_RESOURCES, "the archive cannot be reached") from error
        if stored.status not in ("Success", "AlreadyStored", "FilteredOut"):
            raise Refusal(OUT_OF_RESOURCES, "the archive did not store the instance")
        if stored.status == "Success":  # what was there already came from somewhere else
            self.note_origin(Origin.of(stored.orthanc_id, stored.series_id, request.peer))

    def _keep(
        self, received: HandOver, request: Request, body: Callable[[], Iterator[bytes]], length: int
    ) -> bool:  # fmt: skip
        """Put the instance into the journal, if that is what was asked for; whether it is there now.

        If not, it goes to Orthanc at once, which must have any older instance of the same UID before.

        Raises:
            Refusal: it cannot be taken now.
        """
        uid = str(request.message.AffectedSOPInstanceUID)
        journal = received.journal
        try:
            if self.acknowledges_received and length <= journal.maximum_size:
                received.add(journal.accept(uid, body(), length, origin_of(request.peer), ROOM_PATIENCE))
                return True
        except AlreadyWaiting:
            pass
        except JournalFull as error:
            raise Refusal(OUT_OF_RESOURCES, "too many received instances wait for the archive") from error
        except OSError as error:
            raise Refusal(OUT_OF_RESOURCES, "the instance cannot be kept") from error
        if not journal.wait_until_gone(uid, TURN_PATIENCE):
            raise Refusal(OUT_OF_RESOURCES, "an earlier instance of this UID waits for the archive")
        return False


def _checked_meta(request: Request) -> FileMeta:
    """File meta information from the request, once the data set agrees with it.

    Raises:
        Refusal: it does not (PS3.4 Table B.2-1).
    """
    transfer_syntax = request.context.transfer_syntax
    sop_class_uid = str(request.message.AffectedSOPClassUID or "")
    sop_instance_uid = str(request.message.AffectedSOPInstanceUID or "")
    try:
        found = read_sop_common(request.data_set, transfer_syntax)
        if transfer_syntax in DEFLATED and inflates_beyond(request.data_set, LARGEST_INFLATED):
            raise Refusal(CANNOT_UNDERSTAND, "the data set is too large when inflated")
        if nests_beyond(request.data_set, transfer_syntax, DEEPEST):
            raise Refusal(CANNOT_UNDERSTAND, "sequences are nested too deeply")
    except NotADataSet as error:
        raise Refusal(CANNOT_UNDERSTAND, "not a data set in the negotiated transfer syntax") from error
    if not (found.sop_class_uid and found.sop_instance_uid):
        raise Refusal(CANNOT_UNDERSTAND, "SOPClassUID or SOPInstanceUID is missing in the data set")
    if (found.sop_class_uid, found.sop_instance_uid) != (sop_class_uid, sop_instance_uid):
        raise Refusal(DATA_SET_DOES_NOT_MATCH, "SOPClassUID or SOPInstanceUID differs from the request")
    return FileMeta(sop_class_uid, sop_instance_uid, transfer_syntax)
