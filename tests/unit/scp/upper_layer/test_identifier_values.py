"""Identifiers are checked as a whole; their values stay as the peer sent them: converting is the services' affair."""

from __future__ import annotations

import io
import struct

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import DicomSettings
from scp.statuses import CANNOT_UNDERSTAND, Refusal
from scp.upper_layer.identifier import decode_identifier, encode_identifier
from scp.upper_layer.limits import Limits
from tests.fakes.data_sets import data_set

LIMITS = Limits.of(DicomSettings())


def element(group: int, number: int, value: bytes) -> bytes:
    """In Implicit VR Little Endian."""
    return struct.pack("<HHL", group, number, len(value)) + value


def test_values_that_are_none_of_their_vr_are_left_alone() -> None:
    encoded = element(0x0020, 0x0011, b"* ") + element(0x0028, 0x0010, b"abc ")
    dataset = decode_identifier(io.BytesIO(encoded), ImplicitVRLittleEndian, LIMITS)
    series_number = dataset.get_item("SeriesNumber")
    assert isinstance(series_number, RawDataElement)
    assert series_number.value == b"* "


def test_sequences_are_parsed() -> None:
    encoded = encode_identifier(data_set(ScheduledProcedureStepSequence={"Modality": "CT"}), ExplicitVRLittleEndian)
    dataset = decode_identifier(io.BytesIO(encoded), ExplicitVRLittleEndian, LIMITS)
    assert not isinstance(dataset.get_item("ScheduledProcedureStepSequence"), RawDataElement)


@pytest.mark.parametrize(
    "encoded",
    [
        struct.pack("<HHLHHL", 0x0040, 0x0100, 4, 0xFFFE, 0xE000, 0) + element(0x0008, 0x0060, b"CT"),
        element(0x0010, 0x0020, b"P1")[:-1],
        struct.pack("<HHL", 0x0040, 0x0100, 100)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 10)
        + element(0x0008, 0x0060, b"CT"),
        struct.pack("<HHL", 0x0040, 0x0100, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0),
    ],
    ids=["item cut off by its sequence", "value cut short", "sequence cut short", "sequence without its end"],
)
def test_damage_is_refused(encoded: bytes) -> None:
    """Raises: Refusal."""
    with pytest.raises(Refusal) as refused:
        decode_identifier(io.BytesIO(encoded), ImplicitVRLittleEndian, LIMITS)
    assert refused.value.status == CANNOT_UNDERSTAND
