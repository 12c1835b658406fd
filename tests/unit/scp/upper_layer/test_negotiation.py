"""Presentation contexts and roles, accepted as Orthanc accepts them."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from pynetdicom import AllStoragePresentationContexts

from config.settings import DicomSettings
from scp.upper_layer.associate import AssociateRequest, ContextProposal
from scp.upper_layer.negotiation import Negotiated, Negotiator
from tests.fakes.raw_peer import CT, FIND, VERIFICATION
from tests.fakes.sink_services import services

IMPLICIT, EXPLICIT = str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)
BIG, DEFLATED = str(ExplicitVRBigEndian), str(DeflatedExplicitVRLittleEndian)
BASELINE, J2K = str(JPEGBaseline8Bit), str(JPEG2000Lossless)
PRIVATE = "1.3.46.670589.2.5.1.1"


def negotiate(
    *proposals: tuple[str, tuple[str, ...]], roles: dict[str, tuple[bool, bool]] | None = None, **settings: Any
) -> Negotiated:
    request = AssociateRequest(1, "ISEN", "CT1", b"", roles=roles or {})
    request.contexts = [ContextProposal(2 * n + 1, uid, syntaxes) for n, (uid, syntaxes) in enumerate(proposals)]
    return Negotiator(lambda: DicomSettings(**settings), services()).negotiate(request)


def outcome(uid: str, *syntaxes: str, **settings: Any) -> tuple[int, str]:
    result = negotiate((uid, syntaxes), **settings).results[0]
    return result.result, result.transfer_syntax


def test_storage_follows_the_order_of_the_peer() -> None:
    assert outcome(CT, J2K, IMPLICIT, EXPLICIT) == (0, J2K)


def test_others_prefer_explicit_little_endian() -> None:
    assert outcome(FIND, DEFLATED, IMPLICIT, BIG, EXPLICIT) == (0, EXPLICIT)
    assert outcome(FIND, IMPLICIT, BIG) == (0, BIG)
    assert outcome(VERIFICATION, J2K) == (4, J2K)


def test_every_storage_class_is_accepted() -> None:
    """All that pynetdicom knows, and the retired ones that archives still hold."""
    for uid in [*(str(c.abstract_syntax) for c in AllStoragePresentationContexts), "1.2.840.10008.5.1.4.1.1.6"]:
        assert outcome(uid, IMPLICIT)[0] == 0, uid


def test_accepted_transfer_syntaxes() -> None:
    assert outcome(CT, BASELINE, EXPLICIT, accepted_transfer_syntaxes=("1.2.840.10008.1.2.?",)) == (0, EXPLICIT)
    assert outcome(CT, BASELINE, accepted_transfer_syntaxes=("1.2.840.10008.1.2.?",)) == (4, BASELINE)
    assert outcome(CT, BASELINE, EXPLICIT, rejected_transfer_syntaxes=(BASELINE,)) == (0, EXPLICIT)


def test_accepted_and_rejected_sop_classes() -> None:
    assert outcome(CT, IMPLICIT, accepted_sop_classes=("1.2.840.10008.5.1.4.1.1.4*",))[0] == 3
    assert outcome("1.2.840.10008.5.1.4.1.1.4", IMPLICIT, accepted_sop_classes=("1.2.840.10008.5.1.4.1.1.4*",))[0] == 0
    assert outcome(CT, IMPLICIT, rejected_sop_classes=("*.1.1.2",))[0] == 3
    assert outcome(PRIVATE, IMPLICIT, accepted_sop_classes=(PRIVATE,))[0] == 0  # named literally


def test_unknown_classes_only_when_asked() -> None:
    """UnknownSopClassAccepted: as storage, uncompressed first."""
    assert outcome(PRIVATE, IMPLICIT)[0] == 3
    found = negotiate((PRIVATE, (J2K, IMPLICIT, EXPLICIT)), unknown_sop_class_accepted=True)
    assert found.results[0].transfer_syntax == EXPLICIT
    assert found.contexts[1].is_storage
    assert outcome(PRIVATE, IMPLICIT, unknown_sop_class_accepted=True, rejected_sop_classes=(PRIVATE,))[0] == 3


@pytest.mark.parametrize("role", [(True, True), (False, True), (True, False)])
def test_storage_roles_are_granted_as_proposed(role: tuple[bool, bool]) -> None:
    """PS3.4 C.5.3: the requestor of a C-GET asks for the SCP role of the storage classes."""
    found = negotiate((CT, (IMPLICIT,)), roles={CT: role})
    assert found.roles == {CT: role}
    assert found.contexts[1].peer_is_scp is role[1]


def test_roles_of_others_are_not_answered() -> None:
    """No answer means the default roles, PS3.7 D.3.3.4."""
    found = negotiate((FIND, (IMPLICIT,)), roles={FIND: (True, True)})
    assert found.roles == {}
    assert not found.contexts[1].peer_is_scp


def test_no_role_at_all_is_no_context() -> None:
    assert negotiate((CT, (IMPLICIT,)), roles={CT: (False, False)}).results[0].result == 1


def test_one_class_in_several_contexts() -> None:
    found = negotiate((CT, (IMPLICIT,)), (CT, (J2K,)), ("1.2.3", (IMPLICIT,)))
    assert {i: str(context.accepted.transfer_syntax) for i, context in found.contexts.items()} == {1: IMPLICIT, 3: J2K}
    assert [result.result for result in found.results] == [0, 0, 3]
