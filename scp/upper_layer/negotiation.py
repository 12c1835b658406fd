"""Which presentation contexts and roles we accept, decided as Orthanc decides it.

Storage follows the peer's order of transfer syntaxes and grants the roles the peer proposes (C-GET needs the SCP role);
everything else prefers Explicit VR Little Endian.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]  # made by a loop there

from config.settings import DicomSettings
from scp.request import AcceptedContext, Service
from scp.upper_layer.associate import AssociateRequest, ContextProposal, ContextResult

ACCEPTED: Final = 0  # PS3.8 Table 9-18
USER_REJECTION: Final = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

_PREFERENCE: Final = (
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
)
# PS3.6 Table A-1: retired classes that archives still hold and pynetdicom no longer lists
RETIRED_STORAGE: Final = (
    "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame Image
    "1.2.840.10008.5.1.4.1.1.5",  # Nuclear Medicine Image
    "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image
    "1.2.840.10008.5.1.4.1.1.8",  # Standalone Overlay
    "1.2.840.10008.5.1.4.1.1.9",  # Standalone Curve
    "1.2.840.10008.5.1.4.1.1.10",  # Standalone Modality LUT
    "1.2.840.10008.5.1.4.1.1.11",  # Standalone VOI LUT
    "1.2.840.10008.5.1.4.1.1.12.3",  # X-Ray Angiographic Bi-Plane Image
    "1.2.840.10008.5.1.4.1.1.77.1",  # VL Image
    "1.2.840.10008.5.1.4.1.1.77.2",  # VL Multi-frame Image
    "1.2.840.10008.5.1.4.1.1.129",  # Standalone PET Curve
)
STORAGE_SOP_CLASSES: Final = frozenset(
    [*(str(context.abstract_syntax) for context in AllStoragePresentationContexts), *RETIRED_STORAGE]
)


@dataclass(frozen=True, slots=True)
class NegotiatedContext:
    """An accepted context and what may flow through it."""

    accepted: AcceptedContext
    is_storage: bool
    peer_is_scp: bool  # the peer takes C-STORE requests from us, PS3.4 C.5.3


@dataclass(slots=True)
class Negotiated:
    """The outcome for one association."""

    results: list[ContextResult] = field(default_factory=list)
    contexts: dict[int, NegotiatedContext] = field(default_factory=dict)
    roles: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: dict[str, bytes] = field(default_factory=dict)


class Negotiator:
    """Answers proposals; made once per worker, used by all its threads."""

    def __init__(self, settings: Callable[[], DicomSettings], services: Iterable[Service]) -> None:
        """`settings` are asked for each association: they may change."""
        services = tuple(services)
        self._settings = settings
        self._others = {str(uid) for service in services if service.dimse != "C_STORE" for uid in service.sop_classes}
        self._extended = {
            str(uid): service.negotiate for service in services if service.negotiate for uid in service.sop_classes
        }
        self._has_store = any(service.dimse == "C_STORE" for service in services)
        self._rules: _StorageRules | None = None

    def negotiate(self, request: AssociateRequest) -> Negotiated:
        """Decide every context `request` proposes; none accepted is a valid outcome, as in Orthanc."""
        outcome = Negotiated()
        rules = self._storage_rules()
        for proposal in request.contexts:
            result, syntax, is_storage = self._decide(proposal, rules)
            role = request.roles.get(proposal.abstract_syntax)
            if result == ACCEPTED and role is not None and self._grants_roles(proposal, is_storage=is_storage):
                outcome.roles[proposal.abstract_syntax] = role
                if role == (False, False):  # PS3.7 D.3.3.4: neither role leaves nothing to do
                    result = USER_REJECTION
            outcome.results.append(ContextResult(proposal.context_id, result, syntax))
            if result == ACCEPTED:
                peer_is_scp = outcome.roles.get(proposal.abstract_syntax, (True, False))[1]
                outcome.contexts[proposal.context_id] = _negotiated(
                    proposal.context_id,
                    proposal.abstract_syntax,
                    syntax,
                    is_storage=is_storage,
                    peer_is_scp=peer_is_scp,
                )
        outcome.extended = self._answer_extended(request.extended)
        return outcome

    def _storage_rules(self) -> _StorageRules:
        settings, rules = self._settings(), self._rules
        if rules is None or rules.settings is not settings:
            rules = self._rules = _StorageRules(settings, offered=self._has_store)
        return rules

    def _decide(self, proposal: ContextProposal, rules: _StorageRules) -> tuple[int, str, bool]:
        uid, proposed = proposal.abstract_syntax, proposal.transfer_syntaxes
        syntax: str | None
        if uid in self._others:
            syntax = next((candidate for candidate in _PREFERENCE if candidate in proposed), None)
            is_storage = False
        elif rules.accepts_class(uid):
            order = proposed if rules.knows_class(uid) else sorted(proposed, key=_uncompressed_first)
            syntax = next(filter(rules.accepts_syntax, order), None)
            is_storage = True
        else:
            return ABSTRACT_SYNTAX_NOT_SUPPORTED, proposed[0], False
        if syntax is None:
            return TRANSFER_SYNTAXES_NOT_SUPPORTED, proposed[0], is_storage
        return ACCEPTED, str(syntax), is_storage

    @staticmethod
    def _grants_roles(proposal: ContextProposal, *, is_storage: bool) -> bool:
        return is_storage or proposal.abstract_syntax == StorageCommitmentPushModel

    def _answer_extended(self, proposed: Mapping[str, bytes]) -> dict[str, bytes]:
        return {uid: self._extended[uid](information) for uid, information in proposed.items() if uid in self._extended}


class _StorageRules:
    """What some settings say about storage."""

    def __init__(self, settings: DicomSettings, *, offered: bool) -> None:
        self.settings = settings
        self._classes = _storage_classes(settings) if offered else frozenset()
        self._promiscuous = offered and settings.unknown_sop_class_accepted
        self._rejected_classes = uid_matcher(settings.rejected_sop_classes)
        self._accepted_syntaxes = uid_matcher(settings.accepted_transfer_syntaxes)
        self._rejected_syntaxes = uid_matcher(settings.rejected_transfer_syntaxes)

    def knows_class(self, uid: str) -> bool:
        return uid in self._classes

    def accepts_class(self, uid: str) -> bool:
        return uid in self._classes or (self._promiscuous and not self._rejected_classes(uid))

    def accepts_syntax(self, uid: str) -> bool:
        return self._accepted_syntaxes(uid) and not self._rejected_syntaxes(uid)


def _storage_classes(settings: DicomSettings) -> frozenset[str]:
    """The storage SOP classes of AcceptedSopClasses and RejectedSopClasses; literal ones need not be known to us."""
    rejected = uid_matcher(settings.rejected_sop_classes)
    if not settings.accepted_sop_classes:
        return frozenset(uid for uid in STORAGE_SOP_CLASSES if not rejected(uid))
    accepted = uid_matcher(settings.accepted_sop_classes)
    literal = {pattern for pattern in settings.accepted_sop_classes if not set(pattern) & set("*?")}
    known = {uid for uid in STORAGE_SOP_CLASSES if accepted(uid)} | literal
    return frozenset(uid for uid in known if not rejected(uid))


def uid_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a UID is like one of the patterns, in which `*` and `?` are wild cards."""
    expressions = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    return functools.partial(_matches, re.compile(expressions) if expressions else None)


def _matches(expression: re.Pattern[str] | None, uid: str) -> bool:
    return expression is not None and expression.match(uid) is not None


def _uncompressed_first(uid: str) -> int:
    return _PREFERENCE.index(UID(uid)) if uid in _PREFERENCE else len(_PREFERENCE)


@functools.lru_cache(maxsize=8192)
def _negotiated(
    context_id: int, abstract_syntax: str, transfer_syntax: str, *, is_storage: bool, peer_is_scp: bool
) -> NegotiatedContext:
    """One object for all associations with the same context: 500 idle scanners propose the same 100 contexts."""
    accepted = AcceptedContext(context_id, UID(abstract_syntax), UID(transfer_syntax))
    return NegotiatedContext(accepted, is_storage, peer_is_scp)
