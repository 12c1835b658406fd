"""Identifiers and other small data sets, decoded within bounds and encoded."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from scp.statuses import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refusal
from scp.upper_layer.limits import Limits
from scp.upper_layer.nesting import NestingError, TooManyElements, check_nesting

_RAW_DEFLATE: Final = -zlib.MAX_WBITS  # PS3.5 A.5: no zlib header
MAXIMUM_ELEMENTS: Final = 200_000  # a request for the commitment of 40,000 instances has 160,000, and their ends
_ITEM: Final = {True: b"\xfe\xff\x00\xe0", False: b"\xff\xfe\xe0\x00"}  # the tag, if little endian or not
_LEAST_OF_ITEM: Final = 3  # elements: itself and what it is there for; empty ones are the dearest to decode


def decode_identifier(
    encoded: BinaryIO, transfer_syntax: UID, limits: Limits, maximum_elements: int = MAXIMUM_ELEMENTS
) -> Dataset:
    """The data set, its sequences parsed, its values as received: pydicom's conversion raises on values that peers send
    all the same (`*` in an IS), splits multi-byte characters at 0x5C, and quotes values in warnings.

    Raises:
        Refusal: too deep, too large when inflated, more elements than `maximum_elements`, or not a data set in this
            transfer syntax.
    """
    content = encoded.read()
    if transfer_syntax.is_deflated:
        content = _inflate(content, limits.maximum_inflated_length)
    implicit, little = transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian
    try:
        check_nesting(
            content,
            implicit=implicit,
            little_endian=little,
            maximum=limits.maximum_sequence_depth,
            maximum_elements=maximum_elements,
        )
        if content.count(_ITEM[little]) * _LEAST_OF_ITEM > maximum_elements:  # wherever they hide
            raise TooManyElements
        dataset = read_dataset(io.BytesIO(content), implicit, little)
        _parse_sequences(dataset, maximum_elements)
    except TooManyElements:
        raise Refusal(OUT_OF_RESOURCES, "identifier has too many elements") from None
    except NestingError:
        raise Refusal(CANNOT_UNDERSTAND, "sequences are nested too deeply") from None
    except MemoryError:
        raise Refusal(OUT_OF_RESOURCES, "identifier is too large") from None
    except Exception:  # noqa: BLE001 -- pydicom answers bytes that are no data set with any exception it likes
        raise Refusal(CANNOT_UNDERSTAND, "identifier cannot be decoded") from None
    return dataset


def _parse_sequences(dataset: Dataset, room: int) -> int:
    """Parse them now, which pydicom does late: damage must show here, not inside a service.

    Of the `room` for elements, what is left: a sequence in a value of VR UN is seen only now.
    """
    room -= len(dataset)
    if room < 0:
        raise TooManyElements
    for tag, element in list(dataset.items()):
        is_sequence = element.VR == "SQ" or (dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ")
        if is_sequence and isinstance(items := dataset[tag].value, Sequence):
            for item in items:
                room = _parse_sequences(item, room)
    return room


def encode_identifier(dataset: Dataset, transfer_syntax: UID) -> bytes:
    """`dataset` in `transfer_syntax`."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax.is_implicit_VR
    buffer.is_little_endian = transfer_syntax.is_little_endian
    write_dataset(buffer, dataset)
    encoded = buffer.getvalue()
    if transfer_syntax.is_deflated:
        deflater = zlib.compressobj(wbits=_RAW_DEFLATE)
        encoded = deflater.compress(encoded) + deflater.flush()
        encoded += b"\0" * (len(encoded) % 2)
    return bytes(encoded)


def _inflate(content: bytes, maximum: int) -> bytes:
    inflater = zlib.decompressobj(_RAW_DEFLATE)
    try:
        inflated = inflater.decompress(content, maximum)
    except zlib.error:
        raise Refusal(CANNOT_UNDERSTAND, "identifier cannot be inflated") from None
    if inflater.unconsumed_tail:
        raise Refusal(OUT_OF_RESOURCES, "identifier is too large when inflated")
    return inflated
