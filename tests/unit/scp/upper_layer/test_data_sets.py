"""Where data sets go while they arrive, and how small ones are decoded within bounds."""

from __future__ import annotations

import io
import resource
import struct
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config.settings import DicomSettings
from scp.statuses import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refusal
from scp.upper_layer.data_set_buffer import DataSetBuffer, MemoryBudget
from scp.upper_layer.errors import ProtocolViolation
from scp.upper_layer.identifier import decode_identifier, encode_identifier
from scp.upper_layer.limits import Limits
from scp.upper_layer.nesting import NestingError, check_nesting

ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
LIMITS = Limits.of(DicomSettings(maximum_sequence_depth=3, maximum_inflated_length=10_000))


def buffer(
    folder: Path, budget: MemoryBudget, *, memory: int = 100, keep: int = 1000, maximum: int = 2000
) -> DataSetBuffer:
    return DataSetBuffer(memory=memory, keep=keep, maximum=maximum, folder=folder, budget=budget)


def fill(target: DataSetBuffer, count: int) -> bytes:
    content = bytes(range(256)) * (count // 256 + 1)
    for start in range(0, count, 60):
        target.write(memoryview(content)[start : min(start + 60, count)])
    return content[:count]


@pytest.mark.parametrize("count", [0, 1, 100, 101, 1000])
def test_what_was_written_is_read_back(tmp_path: Path, count: int) -> None:
    target = buffer(tmp_path, MemoryBudget(10_000))
    content = fill(target, count)
    assert target.length == count
    assert target.open().read() == content
    assert target.open().read() == content  # each `open` starts again
    target.close()


def test_a_long_one_is_in_a_file_without_a_name(tmp_path: Path) -> None:
    target = buffer(tmp_path, MemoryBudget(10_000))
    fill(target, 500)
    assert not isinstance(target.open(), io.BytesIO)
    assert list(tmp_path.iterdir()) == []
    target.close()


def test_the_budget_is_given_back(tmp_path: Path) -> None:
    budget = MemoryBudget(150)
    one, other = buffer(tmp_path, budget), buffer(tmp_path, budget)
    fill(one, 90)
    fill(other, 90)
    assert isinstance(one.open(), io.BytesIO)
    assert not isinstance(other.open(), io.BytesIO)  # the budget was used up
    one.close()
    one.close()
    other.close()
    assert budget.take(150)


def test_more_than_may_be_kept_is_dropped_and_refused(tmp_path: Path) -> None:
    budget = MemoryBudget(10_000)
    target = buffer(tmp_path, budget)
    fill(target, 1500)
    assert target.refusal
    assert target.refusal.status == OUT_OF_RESOURCES
    assert target.open().read() == b""
    assert budget.take(10_000)


def test_more_than_the_maximum_ends_the_association(tmp_path: Path) -> None:
    with pytest.raises(ProtocolViolation, match="data_set_length"):
        fill(buffer(tmp_path, MemoryBudget(10_000)), 2001)


def test_no_room_on_disk_is_a_refusal(tmp_path: Path) -> None:
    target = buffer(tmp_path / "missing", MemoryBudget(10_000))
    fill(target, 500)
    assert target.refusal
    assert target.refusal.status == OUT_OF_RESOURCES


def test_a_fragment_that_the_disk_takes_in_part_is_a_refusal_whatever_follows(tmp_path: Path) -> None:
    """write(2) takes what there is room for and says so; the error would come with the next write, if room did not."""
    target = buffer(tmp_path, MemoryBudget(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        fill(target, 120)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    fill(target, 60)
    assert target.length == 180
    assert target.refusal
    assert target.refusal.status == OUT_OF_RESOURCES


def query(depth: int) -> Dataset:
    dataset = Dataset()
    dataset.PatientName = "Wildcard*"
    inner = dataset
    for _ in range(depth):
        item = Dataset()
        item.CodeValue = "X"
        inner.ConceptNameCodeSequence = [item]
        inner = item
    return dataset


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda uid: uid.name,
)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_identifiers_in_every_syntax(syntax: UID, depth: int) -> None:
    encoded = encode_identifier(query(depth), syntax)
    assert decode_identifier(io.BytesIO(encoded), syntax, LIMITS) == query(depth)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_one_level_too_many(syntax: UID) -> None:
    encoded = encode_identifier(query(4), syntax)
    with pytest.raises(Refusal, match="nested"):
        decode_identifier(io.BytesIO(encoded), syntax, LIMITS)


@pytest.mark.parametrize("defined_length", [True, False])
def test_levels_hidden_in_an_unknown_vr_count(*, defined_length: bool) -> None:
    """PS3.5 6.2.2: UN of undefined length is a sequence in Implicit VR, whatever the transfer syntax."""
    inside = encode_identifier(query(3), ImplicitVRLittleEndian)
    length = struct.pack("<L", len(inside)) if defined_length else b"\xff\xff\xff\xff"
    encoded = b"\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0" + length + inside
    encoded += (b"" if defined_length else ITEM_END) + SEQUENCE_END
    check_nesting(encoded, implicit=False, little_endian=True, maximum=4)
    with pytest.raises(NestingError):
        check_nesting(encoded, implicit=False, little_endian=True, maximum=3)


def test_inflated_size_is_bounded() -> None:
    long = Dataset()
    long.TextValue = "A" * 20_000
    encoded = encode_identifier(long, DeflatedExplicitVRLittleEndian)
    assert len(encoded) < 1000
    with pytest.raises(Refusal) as refusal:
        decode_identifier(io.BytesIO(encoded), DeflatedExplicitVRLittleEndian, LIMITS)
    assert refusal.value.status == OUT_OF_RESOURCES


ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
ELEMENTS = b"".join(struct.pack("<HHL", 0x10, number, 0) for number in range(0x10, 0x410))
EXPLICIT_ELEMENTS = b"".join(struct.pack("<HH2sH", 0x10, number, b"LO", 0) for number in range(0x10, 0x410))


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def explicit(vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHL", 0x40, 0x100, vr, 0, len(value)) + value


@pytest.mark.parametrize(
    ("encoded", "syntax"),
    [
        (ELEMENTS, ImplicitVRLittleEndian),
        (implicit(0x00400100, ITEM * 400), ImplicitVRLittleEndian),
        (implicit(0x00400100, implicit(0xFFFEE000, ELEMENTS)), ImplicitVRLittleEndian),
        (explicit(b"SQ", ITEM * 400), ExplicitVRLittleEndian),
        (explicit(b"UN", ITEM * 400), ExplicitVRLittleEndian),
        (explicit(b"UN", implicit(0xFFFEE000, EXPLICIT_ELEMENTS)), ExplicitVRLittleEndian),
    ],
    ids=["elements", "items", "in an item", "explicit", "items in UN", "elements in UN"],
)
def test_the_number_of_elements_is_bounded(encoded: bytes, syntax: UID) -> None:
    """Two kilobytes of deflated data set can be 16 MB of empty items, each of which becomes an object."""
    with pytest.raises(Refusal) as refusal:
        decode_identifier(io.BytesIO(encoded), syntax, LIMITS, 1000)
    assert refusal.value.status == OUT_OF_RESOURCES
    assert len(decode_identifier(io.BytesIO(encoded), syntax, LIMITS, 2000)) > 0


def test_bad_values_show_at_decoding() -> None:
    """Pydicom converts late; a service must not stumble over it later."""
    encoded = b"\x28\x00\x02\x00US\x03\x00\x01\x02\x03\x00"
    with pytest.raises(Refusal) as refusal:
        decode_identifier(io.BytesIO(encoded), ExplicitVRLittleEndian, LIMITS)
    assert refusal.value.status == CANNOT_UNDERSTAND


def test_an_empty_identifier_is_an_empty_data_set() -> None:
    assert decode_identifier(io.BytesIO(), ExplicitVRLittleEndian, LIMITS) == Dataset()
