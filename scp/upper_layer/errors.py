"""Why an association ends other than by release.

AssociationEnded            there is nobody left to answer
└── ProtocolViolation       the peer broke PS3.7, PS3.8 or one of our bounds; it is sent an A-ABORT
"""

from __future__ import annotations

from enum import IntEnum


class AbortReason(IntEnum):
    """Reason/Diag. of an A-ABORT from the service provider, PS3.8 Table 9-26."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


class AssociationEnded(Exception):
    """The peer released, aborted, vanished or stalled; a retry needs a new association."""


class ProtocolViolation(AssociationEnded):
    """The peer sent what it may not send; the text names the rule and holds no data of the peer."""

    def __init__(self, text: str, reason: AbortReason = AbortReason.NOT_SPECIFIED) -> None:
        super().__init__(text)
        self.reason = reason
