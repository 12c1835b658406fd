"""Why a message was not used, in the terms of HL7: acknowledgment code (table 0008), error condition (table 0357)."""

from __future__ import annotations

from typing import Final

SEGMENT_SEQUENCE: Final = 100
REQUIRED_FIELD_MISSING: Final = 101
DATA_TYPE: Final = 102
TABLE_VALUE: Final = 103
MESSAGE_TYPE_UNSUPPORTED: Final = 200
VERSION_UNSUPPORTED: Final = 203
UNKNOWN_KEY: Final = 204
INTERNAL_ERROR: Final = 207
CONDITIONS: Final = {
    SEGMENT_SEQUENCE: "Segment sequence error",
    REQUIRED_FIELD_MISSING: "Required field missing",
    DATA_TYPE: "Data type error",
    TABLE_VALUE: "Table value not found",
    MESSAGE_TYPE_UNSUPPORTED: "Unsupported message type",
    VERSION_UNSUPPORTED: "Unsupported version id",
    UNKNOWN_KEY: "Unknown key identifier",
    INTERNAL_ERROR: "Application internal error",
}


class Rejected(Exception):
    """The message was not used; nothing of it was stored. The text holds no values of it."""

    def __init__(self, code: str, condition: int, segment: str, field: int, text: str) -> None:
        """`code` is AE (the content is wrong) or AR (this receiver cannot take such a message)."""
        super().__init__(text)
        self.code = code
        self.condition = condition
        self.segment = segment
        self.field = field  # number in the segment; 0 = the segment itself
