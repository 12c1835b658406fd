"""From an A-ASSOCIATE-RQ to an established association or a rejection (PS3.8 9.3.4), in Orthanc's order of checks."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scp.access_control import AccessControl
from scp.administration import CurrentSettings
from scp.request import Peer
from scp.upper_layer.associate import (
    APPLICATION_CONTEXT_NAME,
    SMALLEST_MAXIMUM_LENGTH,
    AssociateRequest,
    UserIdentity,
    decode_associate_request,
    encode_associate_accept,
)
from scp.upper_layer.association import SEND_TIMEOUT, Association
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import Command
from scp.upper_layer.negotiation import Negotiator
from scp.upper_layer.pdu_stream import PduStream
from scp.upper_layer.transport import Transport

_PERMANENT, _TRANSIENT = 1, 2  # result, PS3.8 Table 9-21
_USER, _ACSE, _PRESENTATION = 1, 2, 3  # source
_USER_NAME, _USER_NAME_AND_PASSCODE = 1, 2  # PS3.7 D.3.3.7.1


@dataclass(frozen=True)
class Rejection(Exception):
    """A-ASSOCIATE-RJ: result, source, reason, and what the log calls it."""

    result: int
    source: int
    reason: int
    text: str

    def __str__(self) -> str:
        return self.text


UNSUPPORTED_VERSION = Rejection(_PERMANENT, _ACSE, 2, "protocol_version_not_supported")
UNSUPPORTED_APPLICATION_CONTEXT = Rejection(_PERMANENT, _USER, 2, "application_context_name_not_supported")
CALLING_NOT_RECOGNIZED = Rejection(_PERMANENT, _USER, 3, "calling_ae_title_not_recognized")
CALLED_NOT_RECOGNIZED = Rejection(_PERMANENT, _USER, 7, "called_ae_title_not_recognized")
MAXIMUM_LENGTH_TOO_SMALL = Rejection(_PERMANENT, _USER, 1, "maximum_length_too_small")
UNKNOWN_IDENTITY = Rejection(_PERMANENT, _ACSE, 1, "user_identity")
TEMPORARY_CONGESTION = Rejection(_TRANSIENT, _PRESENTATION, 1, "temporary_congestion")
LOCAL_LIMIT_EXCEEDED = Rejection(_TRANSIENT, _PRESENTATION, 2, "local_limit_exceeded")


class Establishment:
    """Judges requests; one per worker, used by all its threads."""

    def __init__(
        self,
        settings: CurrentSettings,
        access: AccessControl,
        negotiator: Negotiator,
        limits: Limits,
        dispatch: Callable[[Association, Command], None],
    ) -> None:
        self._settings = settings
        self._access = access
        self._negotiator = negotiator
        self._limits = limits
        self._dispatch = dispatch

    def judge(self, body: bytes) -> AssociateRequest:
        """Decode and check; whether the calling AE title is known, `establish` finds out.

        Raises:
            Rejection: the request is not acceptable.
            ProtocolViolation: it is not an A-ASSOCIATE-RQ.
        """
        request = decode_associate_request(body, self._limits.maximum_user_items)
        if not request.protocol_version & 1:
            raise UNSUPPORTED_VERSION
        if request.application_context != APPLICATION_CONTEXT_NAME:
            raise UNSUPPORTED_APPLICATION_CONTEXT
        if not request.called_ae_title or not self._access.accepts_called(request.called_ae_title):
            raise CALLED_NOT_RECOGNIZED
        if not request.calling_ae_title:
            raise CALLING_NOT_RECOGNIZED
        if 0 < request.maximum_length < SMALLEST_MAXIMUM_LENGTH:
            raise MAXIMUM_LENGTH_TOO_SMALL
        if self._settings().user_identity_required and not _is_known(
            request.user_identity, self._settings().user_identities
        ):
            raise UNKNOWN_IDENTITY
        return request

    def establish(self, request: AssociateRequest, transport: Transport, address: str) -> Association:
        """Send A-ASSOCIATE-AC and return the association; what was changed in Orthanc before this counts.

        Raises:
            Rejection: the peer is not, or not any more, one that may associate; nothing was sent.
            AssociationEnded: the peer is gone.
        """
        self._settings.refresh()
        if not self._access.accepts_calling(request.calling_ae_title, address):
            raise CALLING_NOT_RECOGNIZED
        outcome = self._negotiator.negotiate(request)
        identity = request.user_identity
        wants_response = (
            identity is not None and identity.response_requested and self._settings().user_identity_required
        )
        accept = encode_associate_accept(
            request,
            outcome.results,
            maximum_length=self._limits.maximum_pdu_length,
            roles=outcome.roles,
            extended=outcome.extended,
            identity_response=b"" if wants_response else None,  # PS3.7 D.3.3.7.2: empty for types 1 and 2
        )
        stream = PduStream(transport, pdu_timeout=self._limits.pdu_timeout)
        stream.send([accept], SEND_TIMEOUT)
        calling = request.calling_ae_title
        return Association(
            stream,
            Peer(calling, request.called_ae_title, address, self._access.find(calling, address)),
            outcome.contexts,
            extended=outcome.extended,
            peer_maximum_length=request.maximum_length,
            limits=self._limits,
            dispatch=self._dispatch,
        )


def _is_known(identity: UserIdentity | None, known: Mapping[str, str]) -> bool:
    if identity is None or identity.kind not in (_USER_NAME, _USER_NAME_AND_PASSCODE):
        return False
    passcode = known.get(identity.primary.decode("utf-8", "replace"))
    if passcode is None:
        return False
    if not passcode:
        return True
    return identity.kind == _USER_NAME_AND_PASSCODE and hmac.compare_digest(passcode.encode(), identity.secondary)
