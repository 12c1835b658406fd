"""C-FIND of the Query/Retrieve Information Models (PS3.4 C.4.1) over Orthanc's index.

Orthanc finds candidates, `scp.matching` decides, and answers go out while the next candidates are read. Where the
Standard leaves a choice:

* Every query is relational (PS3.4 C.4.1.3.2), unless StrictHierarchy: keys of any level may be given. Keys of lower
  levels ask for entities that contain a match, and the answer holds the values of the first that matches. An empty
  Modality at STUDY level, which many send and the Standard does not know, is answered with ModalitiesInStudy.
* An empty stored value matches universal keys only, as with Orthanc, not every key (PS3.4 C.2.2.1.2), unless
  UnknownValuesMatch.
* Attributes outside of Orthanc's index are read from one instance's file, for up to `FILES_PER_QUERY` candidates;
  with more candidates they count as unsupported: not matched, not answered, status 0xFF01. Private attributes are
  among them, if the request, Orthanc's `Dictionary` or pydicom's dictionary tells their VR.
* LimitFindResults and LimitFindInstances end the answers with 0xFE00, as with Orthanc.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from config.settings import DicomSettings
from scp.administration import Current
from scp.matching import Candidate, Clock, Matcher, MatchingOptions, compile_identifier
from scp.matching.answer import add_attribute
from scp.matching.candidate import TIMEZONE_OFFSET_FROM_UTC, PrivateVrs, Undecodable
from scp.orthanc_client import OrthancClient, OrthancError
from scp.query.character_set import python_encoding, set_character_set
from scp.query.encoding import encode_plain
from scp.query.hierarchy import check_hierarchy
from scp.query.main_dicom_tags import MainDicomTags, main_dicom_tags
from scp.query.model import QUERY_RETRIEVE_LEVEL, ROOTS, UNIQUE_KEYS, Level, Root, root_of
from scp.query.plan import RETRIEVE_AE_TITLE, plan_query, without_ignored_keys
from scp.query.search import find_candidates, matching_entities
from scp.request import Request, Service
from scp.statuses import (
    CANCEL,
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH,
    PENDING,
    PENDING_WARNING,
    SUCCESS,
    Refusal,
)

log = logging.getLogger(__name__)

FILES_PER_QUERY: Final = 200
# PS3.4 C.5.1.1: relational, date-time, fuzzy names, timezone, not multi-frame views, empty and multiple value matching
SUPPORTED_EXTENSIONS: Final = b"\1\1\1\1\0\1\1"
COMBINED: Final = ((0x00080020, 0x00080030), (0x00080021, 0x00080031))  # study and series date and time


@dataclass(frozen=True)
class FindService:
    """Serves C-FIND requests; one for all threads of the worker."""

    settings: Current
    client: OrthancClient
    private_vrs: PrivateVrs = field(default_factory=dict)

    def service(self) -> Service:
        sop_classes = tuple(root.find for root in ROOTS)
        return Service("C-FIND", "C_FIND", "allow_find", sop_classes, self.serve, negotiate_extensions)

    def serve(self, request: Request) -> None:
        try:
            status = self._answer(request)
        except Refusal as refusal:
            _log_failure(request, refusal.status, refusal.comment)
            request.respond(refusal.status, ErrorComment=refusal.comment)
        except OrthancError as error:
            _log_failure(request, CANNOT_UNDERSTAND, str(error))
            request.respond(CANNOT_UNDERSTAND, ErrorComment="the archive cannot be searched")
        else:
            request.respond(status)

    @cached_property
    def _main_tags(self) -> MainDicomTags:
        return main_dicom_tags(self.client.system())

    def _answer(self, request: Request) -> int:
        """Send the pending responses and return the final status."""
        settings = self.settings()
        identifier = request.identifier()
        root = root_of(request.context.abstract_syntax)
        level = root.level_of(identifier)
        extensions = request.extended_negotiation.ljust(len(SUPPORTED_EXTENSIONS), b"\0")
        options = self._options(settings, extensions)
        keys = _decoded(identifier, options)
        if settings.strict_hierarchy and not extensions[0]:
            check_hierarchy(keys.attributes, root, level, self._main_tags)
        plan = plan_query(keys, level, self._main_tags, options, Clock.of(keys, negotiated=bool(extensions[3])))
        identifier = without_ignored_keys(identifier, plan)
        matcher = compile_identifier(identifier, replace(options, supported=plan.supported(with_files=True)))
        candidates = find_candidates(self.client, plan)
        with_files = len(candidates) <= FILES_PER_QUERY
        if plan.in_files and not with_files:
            matcher = compile_identifier(identifier, replace(options, supported=plan.supported(with_files=False)))
        limit = settings.limit_find_instances if level == Level.IMAGE else settings.limit_find_results
        answers = Answers(request, root, level, matcher, settings)
        matches = matching_entities(
            self.client,
            plan,
            matcher,
            candidates,
            with_files=with_files,
            is_cancelled=lambda: request.is_cancelled,
        )
        for match in matches:
            if request.is_cancelled or (limit and answers.count >= limit):
                return CANCEL
            answers.send(match)
        # Orthanc stops at its limit before we have judged what it found: there may be more
        return CANCEL if request.is_cancelled or (limit and len(candidates) >= limit) else SUCCESS

    def _options(self, settings: DicomSettings, extensions: bytes) -> MatchingOptions:
        return MatchingOptions(
            unknown_value_matches=settings.unknown_values_match,
            case_sensitive_person_names=settings.case_sensitive_pn,
            combined=COMBINED if extensions[1] else (),
            fuzzy_person_names=bool(extensions[2]),
            empty_value_matching=bool(extensions[5]),
            all_values_required=bool(extensions[6]),
            default_encoding=python_encoding(settings.default_encoding),
            private_vrs=self.private_vrs,
        )


class Answers:
    """Sends the pending responses of one request (PS3.4 C.4.1.1.3.2)."""

    def __init__(self, request: Request, root: Root, level: Level, matcher: Matcher, settings: DicomSettings) -> None:
        self._request = request
        self._matcher = matcher
        self._settings = settings
        self._unique_keys = [UNIQUE_KEYS[above] for above in Level if root.top <= above <= level]
        self._constant = (
            DataElement(QUERY_RETRIEVE_LEVEL, "CS", level.name),
            DataElement(RETRIEVE_AE_TITLE, "AE", settings.ae_title),
        )
        self.count = 0

    def send(self, match: Candidate) -> None:
        answer = self._matcher.answer(match)
        for tag in self._unique_keys:  # PS3.4 C.4.1.3.1.1: those of the higher levels too
            if tag not in answer:
                values = match.attributes[tag].values if tag in match.attributes else ()
                answer.add_new(tag, dictionary_VR(tag), values[0] if values else None)
        for element in self._constant:
            answer[element.tag] = element
        timezone = match.attributes.get(TIMEZONE_OFFSET_FROM_UTC)
        if timezone:  # PS3.4 C.4.1.1.3.2: the times of the answer are by this clock
            add_attribute(answer, TIMEZONE_OFFSET_FROM_UTC, timezone)
        set_character_set(answer, self._settings.default_encoding)
        status = PENDING if self._matcher.supports(match) else PENDING_WARNING
        encoded = encode_plain(answer, self._request.context.transfer_syntax)
        self._request.respond(status, answer if encoded is None else encoded)
        self.count += 1


def negotiate_extensions(offered: bytes) -> bytes:
    """What we support of what was offered, byte by byte (PS3.4 C.5.1.1)."""
    return bytes(min(ours, theirs) for ours, theirs in zip(SUPPORTED_EXTENSIONS, offered, strict=False))


def _decoded(identifier: Dataset, options: MatchingOptions) -> Candidate:
    try:
        return Candidate.of(identifier, options.default_encoding, options.private_vrs)
    except Undecodable as error:
        raise Refusal(DATA_SET_DOES_NOT_MATCH, str(error)) from error


def _log_failure(request: Request, status: int, reason: str) -> None:
    peer = request.peer
    log.warning(
        "find_refused status=0x%04X calling_ae_title=%r address=%s reason=%s",
        status,
        peer.calling_ae_title,
        peer.address,
        reason,
    )
