"""A data set decoded once, so that it can be matched against many Identifiers and answered from.

Text is decoded with the data set's own SpecificCharacterSet *before* it is split at the backslash, because GB18030, GBK
and ISO 2022 trail bytes can be 0x5C (PS3.5 6.1.2.3), put into Unicode's normalization form C, and freed of its padding.
Elements that pydicom has not converted yet are decoded here from their bytes: its conversion raises on values that
others store all the same, and quotes them in warnings.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterable, Mapping, MutableSequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self, TypeAlias

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS

PrivateName: TypeAlias = tuple[int, str, int]  # group, private creator, low byte of the element
AttributeName: TypeAlias = int | PrivateName  # a tag, unless private
PrivateVrs: TypeAlias = Mapping[PrivateName, str]

NO_PRIVATE_VRS: Final[PrivateVrs] = {}
MAXIMUM_DEPTH: Final = 16  # data sets within data sets

SPECIFIC_CHARACTER_SET: Final = 0x00080005
TIMEZONE_OFFSET_FROM_UTC: Final = 0x00080201

CHARACTER_SET_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2
SINGLE_VALUED_VRS: Final = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is a character like any other
TRAILING_PADDING_VRS: Final = frozenset({"PN", "ST", "LT", "UT", "UC", "UR"})  # leading spaces are significant
TEXT_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}) | CHARACTER_SET_VRS
NUMBER_FORMATS: Final = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d", "US or SS": "H",
}  # fmt: skip
ITEM_TAGS: Final = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00", b"\xfe\xff\xdd\xe0")  # or the sequence's end at once
DEFINITE_VRS: Final = {"US or SS": "US", "US or OW": "OW", "US or SS or OW": "OW", "OB or OW": "OW"}


class _Context(NamedTuple):
    """What the items of a data set inherit from it."""

    encodings: tuple[str, ...]
    timezone_offset: int | None
    private_vrs: PrivateVrs
    depth: int  # levels still allowed

    def within(self, dataset: Dataset) -> _Context:
        terms = _texts_of(dataset, SPECIFIC_CHARACTER_SET)
        offset = _texts_of(dataset, TIMEZONE_OFFSET_FROM_UTC)
        return _Context(
            python_encodings(terms) if terms else self.encodings,  # PS3.5 7.5.3
            parse_timezone_offset(offset[0]) if offset else self.timezone_offset,
            self.private_vrs,
            self.depth - 1,
        )


class Undecodable(Exception):
    """A sequence of the data set is damaged; the message holds no values."""


class Attribute(NamedTuple):
    """One attribute's values, none if it is empty."""

    vr: str
    values: tuple[Any, ...]  # str; numbers; bytes; the items of a sequence as Candidate


class Candidate:
    """What matching and answering need to know of one data set."""

    __slots__ = ("attributes", "timezone_offset")

    def __init__(self, attributes: Mapping[AttributeName, Attribute], timezone_offset: int | None = None) -> None:
        self.attributes = attributes
        self.timezone_offset = timezone_offset  # minutes east of UTC, from TimezoneOffsetFromUTC

    @classmethod
    def of(cls, dataset: Dataset, default_encoding: str = "latin_1", private_vrs: PrivateVrs = NO_PRIVATE_VRS) -> Self:
        """Decode `dataset`, group lengths, groups below 0008 and SpecificCharacterSet left out.

        `default_encoding` (Python's name) is used where the data set names no character set; `private_vrs` where a
        private attribute comes without a VR.

        Raises:
            Undecodable: a sequence is damaged or nested too deeply.
        """
        return cls._decode(dataset, _Context((default_encoding,), None, private_vrs, MAXIMUM_DEPTH))

    @classmethod
    def _decode(cls, dataset: Dataset, outer: _Context) -> Self:
        if not outer.depth:
            raise Undecodable("sequences nested too deeply")
        context = outer.within(dataset)
        creators = _private_creators(dataset)
        attributes: dict[AttributeName, Attribute] = {}
        for element in dataset.values():
            tag = int(element.tag)
            if tag < 0x00080000 or not tag & 0xFFFF or tag == SPECIFIC_CHARACTER_SET:
                continue
            name = _name(tag, creators)
            if name is None:
                continue
            vr = _vr(element, name, context.private_vrs)
            if vr == "SQ":
                items = tuple(cls._decode(item, context) for item in _items(dataset, element))
                attributes[name] = Attribute(vr, items)
            else:
                attributes[name] = _attribute(element, vr, context.encodings)
        return cls(attributes, context.timezone_offset)


def kind_of(vr: str) -> str:
    """What Python type the values of this VR have: text, number, sequence or bytes."""
    if vr in TEXT_VRS:
        return "text"
    if vr in NUMBER_FORMATS or vr == "AT":
        return "number"
    return "sequence" if vr == "SQ" else "bytes"


def parse_timezone_offset(text: str) -> int | None:
    """Minutes east of UTC of `&ZZXX` (PS3.5 6.2, DT); None if it is not one, or out of -1200 to +1400."""
    if len(text) != 5 or text[0] not in "+-" or not (text[1:].isascii() and text[1:].isdigit()):
        return None
    minutes = int(text[1:3]) * 60 + int(text[3:])
    if int(text[3:]) > 59 or minutes > (14 * 60 if text[0] == "+" else 12 * 60):
        return None
    return -minutes if text[0] == "-" else minutes


def _private_creators(dataset: Dataset) -> dict[int, str]:
    """Tag of each private creator element -> its value (PS3.5 7.8.1)."""
    tags = (int(tag) for tag in dataset.keys() if tag & 0x10000 and 0x10 <= tag & 0xFFFF <= 0xFF)  # noqa: SIM118 - iterating a Dataset yields elements, and converts them
    return {tag: texts[0] for tag in tags if (texts := _texts_of(dataset, tag))}


def _name(tag: int, creators: Mapping[int, str]) -> AttributeName | None:
    """The attribute's name; None for private creators and private elements that nobody has reserved."""
    if not tag & 0x10000:
        return tag
    creator = creators.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF)
    return (tag >> 16, creator, tag & 0xFF) if creator else None


def _attribute(element: DataElement | RawDataElement, vr: str, encodings: tuple[str, ...]) -> Attribute:
    value = element.value
    kind = kind_of(vr)
    if kind == "text":
        return _shared_attribute(vr, decoded_texts(value, vr, encodings))
    if isinstance(element, RawDataElement):
        order = "<" if element.is_little_endian else ">"
        return Attribute(vr, decoded_numbers(value, vr, order) if kind == "number" else (value,) if value else ())
    values = value if isinstance(value, MutableSequence) else (value,)
    wanted = (int, float) if kind == "number" else bytes
    return Attribute(vr, tuple(v for v in values if isinstance(v, wanted) and v != b""))


@lru_cache(maxsize=4096)
def _shared_attribute(vr: str, values: tuple[str, ...]) -> Attribute:
    """Most attributes of a worklist repeat (empty ones, dates, modalities): 10,000 entries share their memory."""
    return Attribute(vr, values)


def _vr(element: DataElement | RawDataElement, name: AttributeName, private_vrs: PrivateVrs) -> str:
    """The Standard's VR where it has one: a peer's explicit VR can be wrong, and implicit syntaxes send none."""
    given = str(element.VR) if element.VR else "UN"
    if not isinstance(name, int):
        return given if given != "UN" else private_vrs.get(name) or private_vr(*name)
    vr = dictionary_vr(name)
    if not vr or vr == given or (" or " in vr and given != "UN"):
        return given
    if isinstance(element, DataElement) and kind_of(vr) != kind_of(given):
        return given  # its value has been converted already
    return DEFINITE_VRS.get(vr, vr)


@lru_cache(maxsize=16384)
def private_vr(group: int, creator: str, low_byte: int) -> str:
    """What pydicom's dictionary of private attributes says; UN if it does not know."""
    try:
        return private_dictionary_VR(group << 16 | 0x1000 | low_byte, creator)
    except KeyError:
        return "UN"


@lru_cache(maxsize=16384)
def dictionary_vr(tag: int) -> str:
    """The Standard's value representation; empty if it does not know the tag."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


def _items(dataset: Dataset, element: DataElement | RawDataElement) -> Iterable[Dataset]:
    if isinstance(element, RawDataElement) and element.value and element.value[:4] not in ITEM_TAGS:
        raise Undecodable(f"{element.tag} is not a sequence")  # pydicom would only log a warning
    try:
        value = dataset[element.tag].value  # pydicom parses sequences of defined length only now
    except Exception as error:  # whatever pydicom meets in damaged bytes
        raise Undecodable(f"damaged sequence {element.tag}") from error
    if not value:
        return ()
    if isinstance(value, Iterable) and all(isinstance(item, Dataset) for item in value):
        return value
    raise Undecodable(f"{element.tag} is not a sequence")


def decoded_numbers(value: bytes | None, vr: str, order: str) -> tuple[Any, ...]:
    """The numbers in a value of a VR with binary numbers; `order` is that of `struct`."""
    try:
        if vr == "AT":
            halves = struct.unpack(f"{order}{len(value or b'') // 2}H", value or b"")
            return tuple(high << 16 | low for high, low in zip(halves[::2], halves[1::2], strict=True))
        return tuple(number for (number,) in struct.iter_unpack(order + NUMBER_FORMATS[vr], value or b""))
    except (struct.error, ValueError):
        return ()  # a length that is no multiple of the number's: unknown


@lru_cache(maxsize=256)
def python_encodings(terms: tuple[str, ...]) -> tuple[str, ...]:
    """Python's names of the character sets that SpecificCharacterSet names.

    pydicom takes what it does not know for Python's own names, among which are codecs of bytes and such that raise.
    """
    try:
        found = tuple(convert_encodings(list(terms)))
        for name in found:
            b"A\xff".decode(name, "replace")
    except (LookupError, ValueError):  # also: a NUL in the name, and a codec that cannot replace
        return ("latin_1",)
    return found


def _texts_of(dataset: Dataset, tag: int) -> tuple[str, ...]:
    """Values of an element of the default character repertoire, without touching pydicom's conversion."""
    if tag not in dataset:
        return ()
    return decoded_texts(dataset.get_item(tag).value, "CS", ("latin_1",))


def decoded_texts(value: Any, vr: str, encodings: tuple[str, ...]) -> tuple[str, ...]:
    """The values of an attribute whose VR is text, decoded before they are split; none if all are empty."""
    if value is None:
        return ()
    if isinstance(value, bytes):
        text = _decode_text(value, vr, encodings)
        parts = [text] if vr in SINGLE_VALUED_VRS else text.split("\\")
    elif isinstance(value, MutableSequence):  # a list, or pydicom's MultiValue
        parts = [str(part) for part in value]
    else:
        parts = [str(value)]
    texts = tuple(_trim(part, vr) for part in parts)
    return texts if any(texts) else ()


def _decode_text(value: bytes, vr: str, encodings: tuple[str, ...]) -> str:
    """Never raises: what the character set does not have becomes U+FFFD."""
    if vr not in CHARACTER_SET_VRS:
        return value.decode("latin_1")
    if b"\x1b" in value:  # code extensions; pydicom leaves the escape sequence of ISO 2022 IR 58 in the text
        return decode_bytes(value, encodings, TEXT_VR_DELIMS).replace("\x1b$)A", "")
    return value.decode(encodings[0], errors="replace")


def _trim(text: str, vr: str) -> str:
    text = text.rstrip("\0 ") if vr in TRAILING_PADDING_VRS else text.strip("\0 ")
    return text if text.isascii() else unicodedata.normalize("NFC", text)
