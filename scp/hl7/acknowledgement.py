"""Acknowledgements (HL7 2.9): MSH, MSA and, if the message was not used, ERR."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from scp.hl7.errors import CONDITIONS, Rejected
from scp.hl7.message import header_of

_ACCEPT: Final = {"AA": "CA", "AE": "CE", "AR": "CR"}  # enhanced mode, table 0008
_FALLBACK: Final = ["|", "^~\\&"]


def acknowledgement(content: bytes, rejected: Rejected | None) -> bytes | None:
    """What the sender of `content` is to be told; None if it asked not to be (MSH-15, MSH-16, table 0155).

    It is written with the sender's delimiters, so that what it echoes need not be translated.
    """
    try:
        header = header_of(content)
    except Rejected:
        header = _FALLBACK
    fields = [field.encode("latin_1") for field in header] + [b""] * (20 - len(header))
    code = rejected.code if rejected else "AA"
    enhanced = (header + [""] * 20)[14:16]
    if any(enhanced) and not _wanted(enhanced[1], code):
        if not _wanted(enhanced[0], code):
            return None
        code = _ACCEPT[code]
    separator, delimiters, *_ = fields
    component = delimiters[:1]
    trigger = fields[8].split(component)[1:2]
    kind = component.join([b"ACK", *trigger, b"ACK"] if trigger else [b"ACK"])
    now = f"{datetime.now(UTC):%Y%m%d%H%M%S}+0000".encode()
    segments = [
        [b"MSH", delimiters, *fields[4:6], *fields[2:4], now, b"", kind, uuid4().hex[:20].encode(), *fields[10:12]]
        + [b""] * 5
        + [fields[17]],
        [b"MSA", code.encode(), fields[9], *([str(rejected).encode()] if rejected else [])],
    ]
    if rejected:
        segments.append(_err(rejected, component, delimiters[3:4] or b"&", fields[11]))
    return b"".join(separator.join(segment).rstrip(separator) + b"\r" for segment in segments)


def _wanted(condition: str, code: str) -> bool:
    """Table 0155: AL always, ER on error, SU on success, NE never."""
    return condition in ("AL", "SU" if code == "AA" else "ER")


def _err(rejected: Rejected, component: bytes, subcomponent: bytes, version: bytes) -> list[bytes]:
    field = str(rejected.field).encode() if rejected.field else b""
    condition = [str(rejected.condition).encode(), CONDITIONS[rejected.condition].encode(), b"HL70357"]
    location = [rejected.segment.encode(), b"1" if rejected.segment else b"", field]
    if version >= b"2.5":
        return [b"ERR", b"", component.join(location).rstrip(component), component.join(condition), b"E"]
    return [b"ERR", component.join([*location, subcomponent.join(condition)])]
