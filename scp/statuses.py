"""DIMSE statuses and priorities by name, and the exception that carries one to the peer."""

from __future__ import annotations

from typing import Final

SUCCESS: Final = 0x0000
CANCEL: Final = 0xFE00
PENDING: Final = 0xFF00
PENDING_WARNING: Final = 0xFF01  # optional keys were not supported, PS3.4 Table C.4-1

MEDIUM: Final = 0  # Priority, PS3.7 E.1

# PS3.7 Annex C
INVALID_ATTRIBUTE_VALUE: Final = 0x0106
ATTRIBUTE_LIST_ERROR: Final = 0x0107  # a warning: some attributes were left as they are
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_SOP_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT_VALUE: Final = 0x0115
INVALID_OBJECT_INSTANCE: Final = 0x0117
CLASS_INSTANCE_CONFLICT: Final = 0x0119
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORIZED: Final = 0x0124
UNRECOGNIZED_OPERATION: Final = 0x0211
RESOURCE_LIMITATION: Final = 0x0213

DUPLICATE_TRANSACTION_UID: Final = 0x0131  # a Failure Reason, PS3.3 C.14.1.1

# PS3.4 Tables B.2-1, C.4-1, C.4-2, C.4-3
OUT_OF_RESOURCES: Final = 0xA700
CANNOT_COUNT_MATCHES: Final = 0xA701
SUB_OPERATIONS_FAILED: Final = 0xA702
MOVE_DESTINATION_UNKNOWN: Final = 0xA801
DATA_SET_DOES_NOT_MATCH: Final = 0xA900  # also: identifier does not match the SOP class
SUB_OPERATIONS_WARNING: Final = 0xB000
CANNOT_UNDERSTAND: Final = 0xC000  # also: unable to process


class Refusal(Exception):
    """A request that cannot be granted: the status and the comment the peer is to see.

    The comment holds no patient data; it is cut to 64 characters of the default repertoire on the wire.
    """

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(f"0x{status:04X}: {comment}")
        self.status = status
        self.comment = comment


class NoSuitableContext(Exception):
    """No accepted presentation context can carry this instance; the sub-operation fails (PS3.4 C.4.2.3.1)."""
