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
from scp.upper_layer.nesting import NestingError, check_nesting

_RAW_DEFLATE: Final = -zlib.MAX_WBITS  # PS3.5 A.5: no zlib header


def decode_identifier(encoded: BinaryIO, transfer_syntax: UID, limits: Limits) -> Dataset:
    """The data set, its sequences parsed, its values as received: pydicom's conversion raises on values that peers send
    all the same (`*` in an IS), splits multi-byte characters at 0x5C, and quotes values in warnings.

    Raises:
        Refusal: too deep, too large when inflated, or not a data set in this transfer syntax.
    """
    content = encoded.read()
    if transfer_syntax.is_deflated:
        content = _inflate(content, limits.maximum_inflated_length)
    implicit, little = transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian
    try:
        check_nesting(content, implicit=implicit, little_endian=little, maximum=limits.maximum_sequence_depth)
        dataset = read_dataset(io.BytesIO(content), implicit, little)
        _parse_sequences(dataset)
    except NestingError:
        raise Refusal(CANNOT_UNDERSTAND, "sequences are nested too deeply") from None
    except MemoryError:
        raise Refusal(OUT_OF_RESOURCES, "identifier is too large") from None
    except Exception:  # noqa: BLE001 -- pydicom answers bytes that are no data set with any exception it likes
        raise Refusal(CANNOT_UNDERSTAND, "identifier cannot be decoded") from None
    return dataset


def _parse_sequences(dataset: Dataset) -> None:
    """Parse them now, which pydicom does late: damage must show here, not inside a service."""
    for tag, element in list(dataset.items()):
        is_sequence = element.VR == "SQ" or (dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ")
        if is_sequence and isinstance(items := dataset[tag].value, Sequence):
            for item in items:
                _parse_sequences(item)


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
