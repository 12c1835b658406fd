"""One HL7 version 2 message: decoded by MSH-18, split by its own delimiters, read by segment, field and component.

The bytes are decoded before they are split, because a second byte of GB 18030 or Big5 may look like a delimiter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import hl7

from scp.hl7.errors import (
    MESSAGE_TYPE_UNSUPPORTED,
    REQUIRED_FIELD_MISSING,
    SEGMENT_SEQUENCE,
    TABLE_VALUE,
    VERSION_UNSUPPORTED,
    Rejected,
)

# HL7 table 0211 → Python's codec; further repetitions of MSH-18 are code extensions
CHARACTER_SETS: Final = {
    "ASCII": "ascii",
    "8859/1": "latin_1",
    **{f"8859/{part}": f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "UNICODE UTF-8": "utf_8",
    "UNICODE": "utf_8",
    "UTF-8": "utf_8",
    "ISO IR6": "ascii",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
MAXIMUM_PARTS: Final = 20_000  # segments, fields, repetitions, components: each becomes an object; an order has 500
_START: Final = re.compile(rb"MSH([^\w\s\x00-\x1f])([^\w\s\x00-\x1f]{1,5})\1")


class Message:
    """Fields by number, as HL7 counts them: from 1. Whatever is not there is the empty string."""

    def __init__(self, content: bytes, default_character_set: str) -> None:
        """Decode and split.

        Args:
            content: between MLLP's start and end blocks.
            default_character_set: of table 0211, for messages with an empty MSH-18.

        Raises:
            Rejected: it cannot be read at all.
        """
        header = header_of(content)
        named = [name.strip() for name in header[17].split(header[1][1:2])] if len(header) > 17 else []
        self.codec = _codec(next(reversed(list(filter(None, named))), "") or default_character_set)
        try:
            text = content.decode(self.codec)
        except UnicodeDecodeError:
            raise Rejected("AR", TABLE_VALUE, "MSH", 18, "the message is not in its character set") from None
        text = text.replace("\r\n", "\r").replace("\n", " ") if "\r" in text else text.replace("\n", "\r")
        self.delimiters = header[0] + header[1]
        if sum(map(text.count, {"\r", *self.delimiters})) > MAXIMUM_PARTS:
            raise Rejected("AR", SEGMENT_SEQUENCE, "MSH", 1, "too many fields")
        try:
            self._segments: list[Any] = [one for one in hl7.parse(text) if str(one[0])]
        except Exception as error:  # the parser promises nothing about malformed text
            raise Rejected("AR", SEGMENT_SEQUENCE, "MSH", 1, "the message cannot be parsed") from error
        self.header = Segment(self._segments[0], self.delimiters, self.codec)

    def segments(self) -> list[Segment]:
        """All of them, in order."""
        return [Segment(segment, self.delimiters, self.codec) for segment in self._segments]

    def check(self, types: Sequence[str]) -> str:
        """The message's type, one of `types` (`ORM^O01`).

        Raises:
            Rejected: it is of another type or version, or has no control id.
        """
        if not self.header.text(10):
            raise Rejected("AR", REQUIRED_FIELD_MISSING, "MSH", 10, "the message has no control id")
        kind = f"{self.header.text(9, 1)}^{self.header.text(9, 2)}"
        if kind not in types:
            raise Rejected("AR", MESSAGE_TYPE_UNSUPPORTED, "MSH", 9, "the message type is not supported")
        if not self.header.text(12).startswith("2."):
            raise Rejected("AR", VERSION_UNSUPPORTED, "MSH", 12, "the version is not supported")
        return kind


class Segment:
    """One segment's fields."""

    def __init__(self, parsed: Any, delimiters: str, codec: str) -> None:
        self._parsed = parsed
        self._delimiters = delimiters
        self._codec = codec
        self.name = str(parsed[0])

    def text(self, field: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str:
        """One value, unescaped; HL7's null (`""`) as it is written."""
        node: Any = self._parsed[field] if field < len(self._parsed) else ""
        for number in (repetition, component, subcomponent):
            if isinstance(node, str):
                node = node if number == 1 else ""
            else:
                node = node[number - 1] if number <= len(node) else ""
        return unescaped(str(node), self._delimiters, self._codec).strip(" ")

    def raw(self, field: int) -> str:
        """The field as it was sent."""
        return str(self._parsed[field]) if field < len(self._parsed) else ""

    def repetitions(self, field: int) -> int:
        """How many values the field has."""
        return len(self._parsed[field]) if field < len(self._parsed) else 0


def header_of(content: bytes) -> list[str]:
    """The field separator, then MSH-2, MSH-3 and so on, read before the character set is known.

    Raises:
        Rejected: it does not begin as a message must.
    """
    start = _START.match(content)
    if not start:
        raise Rejected("AR", SEGMENT_SEQUENCE, "MSH", 1, "the message does not begin with MSH and its delimiters")
    segment = re.split(rb"[\r\n]", content, maxsplit=1)[0].decode("latin_1")
    separator = start[1].decode("latin_1")
    return [separator, *segment.split(separator)[1:]]


def unescaped(text: str, delimiters: str, codec: str = "latin_1") -> str:
    r"""HL7 2.10: `\F\ \S\ \T\ \R\ \E\ \Xdd\` and line breaks; highlighting and unknown sequences are left out."""
    escape = delimiters[3:4] or "\\"
    if escape not in text:
        return text
    separators = dict(zip("FSRET", delimiters.ljust(5, "\0"), strict=False))
    parts = text.split(escape)
    if len(parts) % 2 == 0:  # a lone escape character is itself
        parts[-2:] = [parts[-2] + escape + parts[-1]]
    for index in range(1, len(parts), 2):
        parts[index] = _sequence(parts[index], separators, codec)
    return "".join(parts)


def _sequence(code: str, separators: dict[str, str], codec: str) -> str:
    if code in separators:
        return separators[code].strip("\0")
    if code.startswith("X"):
        try:
            encoded = bytes.fromhex(code[1:])
        except ValueError:
            return ""
        try:
            return encoded.decode(codec)
        except UnicodeDecodeError:
            return encoded.decode("latin_1")  # single bytes of it, as some senders write them
    return "\n" if code.startswith((".br", ".sp", ".ce")) else ""


def _codec(name: str) -> str:
    codec = CHARACTER_SETS.get(name.upper())
    if codec is None:
        raise Rejected("AR", TABLE_VALUE, "MSH", 18, "the character set is not supported")
    return codec
