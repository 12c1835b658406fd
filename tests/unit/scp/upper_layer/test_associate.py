"""A-ASSOCIATE PDUs, checked against pynetdicom's own encoder and decoder."""

from __future__ import annotations

import pytest
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from scp.upper_layer.associate import (
    AssociateRequest,
    ContextProposal,
    ContextResult,
    UserIdentity,
    decode_associate_request,
    encode_associate_accept,
)
from scp.upper_layer.associate_requestor import decode_associate_accept, encode_associate_request
from scp.upper_layer.errors import ProtocolViolation
from tests.fakes.raw_peer import CT, EXPLICIT, FIND, IMPLICIT

PROPOSALS = [ContextProposal(1, CT, (EXPLICIT, IMPLICIT)), ContextProposal(3, FIND, (IMPLICIT,))]


def peer_request() -> bytes:
    """What pynetdicom sends as a requestor, with every kind of user item."""
    primitive = A_ASSOCIATE()
    primitive.calling_ae_title, primitive.called_ae_title = "CT1", "ISEN"
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    contexts = [build_context(p.abstract_syntax, list(p.transfer_syntaxes)) for p in PROPOSALS]
    for proposal, context in zip(PROPOSALS, contexts, strict=True):
        context.context_id = proposal.context_id
    primitive.presentation_context_definition_list = contexts
    length, uid, name = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = 16382
    uid.implementation_class_uid = "1.2.3.4"
    name.implementation_version_name = "TEST_1"
    role, extended = SCP_SCU_RoleSelectionNegotiation(), SOPClassExtendedNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = CT, False, True
    extended.sop_class_uid, extended.service_class_application_information = FIND, b"\x01\x00"
    identity, window = UserIdentityNegotiation(), AsynchronousOperationsWindowNegotiation()
    identity.user_identity_type, identity.positive_response_requested = 2, True
    identity.primary_field, identity.secondary_field = b"user", b"pass"
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    primitive.user_information = [length, uid, name, role, extended, identity, window]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def test_every_item_of_a_request_is_read() -> None:
    request = decode_associate_request(peer_request()[6:], 16)
    assert (request.calling_ae_title, request.called_ae_title) == ("CT1", "ISEN")
    assert request.protocol_version == 1
    assert request.application_context == "1.2.840.10008.3.1.1.1"
    assert request.contexts == PROPOSALS
    assert request.maximum_length == 16382
    assert request.implementation_version == "TEST_1"
    assert request.roles == {CT: (False, True)}
    assert request.extended == {FIND: b"\x01\x00"}
    assert request.user_identity == UserIdentity(2, response_requested=True, primary=b"user", secondary=b"pass")


def test_secrets_are_not_in_the_representation() -> None:
    assert "pass" not in repr(decode_associate_request(peer_request()[6:], 16))


def test_items_beyond_the_limit_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match="user_items"):
        decode_associate_request(peer_request()[6:], 6)


def test_items_we_do_not_know_are_left_out() -> None:
    """PS3.8 9.3.1."""
    body = peer_request()[6:] + b"\x77\x00\x00\x03abc"
    assert decode_associate_request(body, 16).contexts == PROPOSALS


@pytest.mark.parametrize(
    ("contexts", "text"),
    [
        ([ContextProposal(2, CT, (IMPLICIT,))], "presentation_context_id"),
        ([ContextProposal(1, CT, (IMPLICIT,))] * 2, "presentation_context_id"),
        ([ContextProposal(1, CT, ())], "presentation_context"),
        ([ContextProposal(1, "1" * 65, (IMPLICIT,))], "uid"),
    ],
)
def test_improper_contexts_are_refused(contexts: list[ContextProposal], text: str) -> None:
    with pytest.raises(ProtocolViolation, match=text):
        decode_associate_request(encode_associate_request("A", "B", contexts, 0)[6:], 16)


@pytest.mark.parametrize(
    ("sent", "read"), [(b"  CT1  ", "CT1"), (b"CT\\1", ""), (b"CT\n1", ""), (b"", ""), (b"C\xe9", "")]
)
def test_ae_titles(sent: bytes, read: str) -> None:
    """Spaces around do not count (PS3.8 Table 9-11); characters outside the repertoire make the title unusable."""
    body = bytearray(peer_request()[6:])
    body[20:36] = sent.ljust(16)
    assert decode_associate_request(bytes(body), 16).calling_ae_title == read


def test_ps38_table_9_17_reserved_bytes_are_sent_back_as_they_came() -> None:
    sent = bytearray(peer_request())
    sent[42:74] = b"thirty-two bytes that mean none!"
    request = decode_associate_request(bytes(sent[6:]), 16)
    answer = encode_associate_accept(request, [], maximum_length=0, roles={}, extended={}, identity_response=None)
    assert answer[10:74] == sent[10:74]


def test_pynetdicom_reads_our_acceptance() -> None:
    request = decode_associate_request(peer_request()[6:], 16)
    encoded = encode_associate_accept(
        request,
        [ContextResult(1, 0, EXPLICIT), ContextResult(3, 4, IMPLICIT)],
        maximum_length=131072,
        roles={CT: (False, True)},
        extended={FIND: b"\x01"},
        identity_response=b"",
    )
    pdu = A_ASSOCIATE_AC()
    pdu.decode(encoded)
    assert len(pdu) == len(encoded)
    primitive = pdu.to_primitive()
    results = primitive.presentation_context_definition_results_list
    assert [(context.context_id, context.result) for context in results] == [(1, 0), (3, 4)]
    assert results[0].transfer_syntax == [EXPLICIT]
    assert (pdu.reserved_aet.strip(), pdu.reserved_aec.strip()) == ("ISEN", "CT1")
    kinds = {type(item).__name__: item for item in primitive.user_information}
    assert kinds["MaximumLengthNotification"].maximum_length_received == 131072
    assert kinds["SCP_SCU_RoleSelectionNegotiation"].scp_role is True
    assert kinds["SCP_SCU_RoleSelectionNegotiation"].scu_role is False
    assert kinds["SOPClassExtendedNegotiation"].service_class_application_information == b"\x01"
    assert "UserIdentityNegotiation" in kinds


def test_pynetdicom_reads_our_request() -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(encode_associate_request("ISEN", "VIEWER", PROPOSALS, 65536))
    primitive = pdu.to_primitive()
    assert (primitive.calling_ae_title, primitive.called_ae_title) == ("ISEN", "VIEWER")
    assert [str(c.abstract_syntax) for c in primitive.presentation_context_definition_list] == [CT, FIND]
    assert [str(s) for s in primitive.presentation_context_definition_list[0].transfer_syntax] == [EXPLICIT, IMPLICIT]


def test_our_acceptance_is_read_back() -> None:
    request = AssociateRequest(1, "B", "A", b" " * 32)
    results = [ContextResult(1, 0, EXPLICIT), ContextResult(3, 3, IMPLICIT)]
    encoded = encode_associate_accept(
        request, results, maximum_length=4096, roles={}, extended={}, identity_response=None
    )
    accept = decode_associate_accept(encoded[6:])
    assert (accept.maximum_length, accept.transfer_syntaxes) == (4096, {1: EXPLICIT})


@pytest.mark.parametrize(("maximum", "is_usable"), [(0, True), (1, False), (127, False), (128, True)])
def test_an_acceptor_that_takes_a_few_bytes_at_a_time_is_not_sent_to(maximum: int, *, is_usable: bool) -> None:
    request = AssociateRequest(1, "B", "A", b" " * 32)
    encoded = encode_associate_accept(
        request, [], maximum_length=maximum, roles={}, extended={}, identity_response=None
    )
    if is_usable:
        assert decode_associate_accept(encoded[6:]).maximum_length == maximum
    else:
        with pytest.raises(ProtocolViolation, match="maximum_length"):
            decode_associate_accept(encoded[6:])
