"""C-FIND of the Modality Worklist Information Model (PS3.4 Annex K) over the worklist sources.

    0xFF00  a scheduled procedure step that matches
    0xFF01  the same, but attributes were requested that are not supported for this step
    0x0000  all were sent
    0xFE00  cancelled by the peer; or LimitAnswers were sent and there are more, as with Orthanc
    0xA900  the Identifier is malformed
    0xC000  the Identifier cannot be decoded, or the source cannot be read

Supported are the attributes of Table K.6-1 (see `scp.worklist_sources.table_k6_1`) and whatever else a step holds; both
are matched and answered. Anything else is ignored for matching and not answered (K.2.2.1.1.2).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from config.settings import DicomSettings, ScpSettings
from scp.administration import Current
from scp.matching import Candidate, Clock, Matcher, MatchingOptions, compile_identifier
from scp.matching.answer import full_dataset
from scp.matching.candidate import TIMEZONE_OFFSET_FROM_UTC
from scp.matching.encoding import encode_candidate
from scp.performed_procedure.reported import ReportedSteps
from scp.query.character_set import TERMS, python_encoding, set_character_set
from scp.query.private_dictionary import private_vrs
from scp.request import Request, Service
from scp.statuses import CANCEL, CANNOT_UNDERSTAND, PENDING, PENDING_WARNING, SUCCESS, Refusal
from scp.upper_layer.limits import Limits
from scp.worklist_sources.folder import WorklistFolder
from scp.worklist_sources.managed import ManagedWorklist
from scp.worklist_sources.protocol import SeveralSources, SourceUnavailable, WorklistSource
from scp.worklist_sources.selection import Selection
from scp.worklist_sources.table_k6_1 import SCHEDULED_PROCEDURE_STEP_SEQUENCE, SUPPORTED, tag_of
from scp.worklist_sources.without_reported import WithoutReported

log = logging.getLogger(__name__)

MODALITY_WORKLIST_FIND: Final = UID("1.2.840.10008.5.1.4.31")
SCHEDULED_STATION_AE_TITLE: Final = tag_of("ScheduledStationAETitle")
# Table K.6-1: "if both are ranges" they form one interval, without negotiation
START: Final = (tag_of("ScheduledProcedureStepStartDate"), tag_of("ScheduledProcedureStepStartTime"))
SUPPORTED_EXTENSIONS: Final = b"\1\1\1\1"  # PS3.4 K.5.1.1: two reserved bytes, fuzzy names, timezone
ENTRIES_BETWEEN_CHECKS: Final = 1000  # of C-CANCEL, when nothing matches


@dataclass(frozen=True)
class WorklistService:
    """Serves worklist queries; one for all threads of the worker."""

    source: WorklistSource
    settings: Current
    options: MatchingOptions
    filter_issuer_aet: bool
    limit_answers: int  # 0 = none

    def service(self) -> Service:
        return Service(
            "C-FIND worklist",
            "C_FIND",
            "allow_find_worklist",
            (MODALITY_WORKLIST_FIND,),
            self.serve,
            negotiate_extensions,
        )

    def serve(self, request: Request) -> None:
        try:
            status = self._answer(request)
        except Refusal as refusal:
            _log_failure(request, refusal.status, refusal.comment)
            request.respond(refusal.status, ErrorComment=refusal.comment)
        except SourceUnavailable as error:
            _log_failure(request, CANNOT_UNDERSTAND, str(error))
            request.respond(CANNOT_UNDERSTAND, ErrorComment="the worklist cannot be read")
        else:
            request.respond(status)

    def _answer(self, request: Request) -> int:
        """Send the pending responses and return the final status."""
        identifier = request.identifier()
        extensions = request.extended_negotiation.ljust(len(SUPPORTED_EXTENSIONS), b"\0")
        encoding = python_encoding(self.settings().default_encoding)
        options = replace(self.options, fuzzy_person_names=bool(extensions[2]), default_encoding=encoding)
        matcher = compile_identifier(identifier, options)
        keys = Candidate.of(identifier, options.default_encoding, options.private_vrs)
        clock = Clock.of(keys, negotiated=bool(extensions[3]))
        selection = Selection.of(keys, fuzzy_person_names=options.fuzzy_person_names)
        for sent, entry in enumerate(self._matching(request, matcher, selection, clock)):
            if request.is_cancelled or (self.limit_answers and sent == self.limit_answers):
                return CANCEL
            self._send(request, matcher, entry)
        return CANCEL if request.is_cancelled else SUCCESS

    def _matching(
        self, request: Request, matcher: Matcher, selection: Selection, clock: Clock | None
    ) -> Iterator[Candidate]:
        calling_ae_title = request.peer.calling_ae_title
        for index, entry in enumerate(self.source.entries(selection)):
            if index % ENTRIES_BETWEEN_CHECKS == 0 and request.is_cancelled:
                return
            if self.filter_issuer_aet and not _is_for(entry, calling_ae_title):
                continue
            seen = clock.adjusted(entry) if clock else entry
            if matcher.matches(seen):
                yield seen

    def _send(self, request: Request, matcher: Matcher, entry: Candidate) -> None:
        answer = matcher.selected(entry)
        timezone = entry.attributes.get(TIMEZONE_OFFSET_FROM_UTC)
        if timezone:  # PS3.4 K.4.1.1.3.2: the times of the answer are by this clock
            answer = Candidate({**answer.attributes, TIMEZONE_OFFSET_FROM_UTC: timezone})
        encoded = encode_candidate(
            answer, TERMS.get(self.settings().default_encoding, ()), request.context.transfer_syntax
        )
        status = PENDING if matcher.supports(entry) else PENDING_WARNING
        request.respond(status, self._data_set(answer) if encoded is None else encoded)

    def _data_set(self, answer: Candidate) -> Dataset:
        dataset = full_dataset(answer)
        set_character_set(dataset, self.settings().default_encoding)
        return dataset


def build_worklist_service(settings: ScpSettings, current: Current) -> Service | None:
    """The service as configured; None without a source: the SOP class is not offered then, as with Orthanc."""
    dicom = settings.dicom or DicomSettings()
    sources = tuple(_sources(settings, current, Limits.of(dicom)))
    if not sources:
        return None
    options = MatchingOptions(
        unknown_value_matches=False,
        case_sensitive_person_names=dicom.case_sensitive_pn,
        combined=(START,),
        supported=SUPPORTED,
        private_vrs=private_vrs(settings.orthanc.dictionary),
    )
    worklists = settings.worklists
    source = sources[0] if len(sources) == 1 else SeveralSources(*sources)
    return WorklistService(source, current, options, worklists.filter_issuer_aet, worklists.limit_answers).service()


def _sources(settings: ScpSettings, current: Current, limits: Limits) -> Iterator[WorklistSource]:
    """What is configured. A folder is read ahead at once, so that the first query does not wait for all of it."""
    worklists = settings.worklists
    if worklists.directory is not None:

        def encoding() -> str:
            return python_encoding(current().default_encoding)

        folder = WorklistFolder(worklists.directory, limits, encoding, private_vrs(settings.orthanc.dictionary))
        threading.Thread(target=_read_ahead, args=(folder,), name="worklist-read-ahead", daemon=True).start()
        yield WithoutReported(folder, ReportedSteps(settings.directory / "mpps"))
    if worklists.managed_directory is not None:
        yield ManagedWorklist(worklists.managed_directory)


def negotiate_extensions(offered: bytes) -> bytes:
    """PS3.4 K.5.1.1: bytes 1 and 2 are always 1; fuzzy matching and timezone adjustment as they are offered."""
    asked = b"\1\1" + offered[2:]
    return bytes(map(min, SUPPORTED_EXTENSIONS, asked))[: len(offered)]


def _is_for(entry: Candidate, ae_title: str) -> bool:
    """Whether the step is scheduled for this station."""
    (step,) = entry.attributes[SCHEDULED_PROCEDURE_STEP_SEQUENCE].values
    return ae_title in step.attributes[SCHEDULED_STATION_AE_TITLE].values


def _read_ahead(folder: WorklistFolder) -> None:
    try:
        folder.entries()
    except SourceUnavailable as error:
        log.warning("worklist_unavailable reason=%r", str(error))


def _log_failure(request: Request, status: int, reason: str) -> None:
    peer = request.peer
    log.warning(
        "worklist_query_refused status=0x%04X calling_ae_title=%r address=%s reason=%r",
        status,
        peer.calling_ae_title,
        peer.address,
        reason,
    )
