"""The short ways from bytes to candidates and back: they never say anything else than pydicom does."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.config import IGNORE
from pydicom.config import settings as pydicom_settings
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.settings import DicomSettings
from scp.matching import Candidate
from scp.matching.answer import full_dataset
from scp.matching.candidate import Undecodable
from scp.matching.decoding import read_candidate
from scp.matching.encoding import encode_candidate
from scp.query.character_set import set_character_set
from scp.statuses import Refusal
from scp.upper_layer.identifier import decode_identifier, encode_identifier
from scp.upper_layer.limits import Limits
from tests.fakes.data_sets import data_set
from tests.fakes.worklists import worklist_entry

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of values that are odd on purpose
LIMITS = Limits.of(DicomSettings())
SYNTAXES = pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])

TEXT = st.text("Ab é=^ \\", max_size=6)
STEP = st.fixed_dictionaries({}, optional={
    "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", "ISO_IR 144", ""]),
    "Modality": st.sampled_from(["CT", "", "MR"]),
    "ScheduledProcedureStepStartDate": st.sampled_from(["20240229", "", "2024.02.29"]),
    "ScheduledProcedureStepDescription": TEXT,
    "ScheduledProtocolCodeSequence": st.lists(st.just({"CodeValue": "X", "CodeMeaning": "x"}), max_size=2),
})  # fmt: skip
ENTRIES = st.fixed_dictionaries({}, optional={
    "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 100"], "ISO_IR 13", "NONE"]),
    "TimezoneOffsetFromUTC": st.sampled_from(["+0100", "-0330", "", "odd"]),
    "PatientName": TEXT,
    "PatientID": TEXT,
    "PregnancyStatus": st.integers(0, 65535),
    "PatientSize": st.just("1.8"),
    "StudyInstanceUID": st.sampled_from(["1.2", "1.2.3", ""]),
    "RequestAttributesSequence": st.just([]),
    "SmallestImagePixelValue": st.integers(0, 5),
    "RequestedProcedureComments": st.text("aé\r\n\\", max_size=300),
    "ScheduledProcedureStepSequence": st.lists(STEP, max_size=2),
})  # fmt: skip


def plain(candidate: Candidate) -> Any:
    """Everything a candidate holds, for comparison."""
    attributes = {
        name: (held.vr, tuple(plain(value) if isinstance(value, Candidate) else value for value in held.values))
        for name, held in candidate.attributes.items()
    }
    return attributes, candidate.timezone_offset


def read_by_pydicom(encoded: bytes, syntax: UID) -> Any:
    try:
        return plain(Candidate.of(decode_identifier(io.BytesIO(encoded), syntax, LIMITS), "latin_1"))
    except (Refusal, Undecodable) as refusal:
        return type(refusal), str(refusal)


def read_directly(encoded: bytes, syntax: UID) -> Any:
    try:
        return plain(read_candidate(encoded, syntax, LIMITS, "latin_1"))
    except (Refusal, Undecodable) as refusal:
        return type(refusal), str(refusal)


def encoded_of(keys: dict[str, Any], syntax: UID) -> bytes:
    before = pydicom_settings.writing_validation_mode
    pydicom_settings.writing_validation_mode = IGNORE  # others write what they like
    try:
        return encode_identifier(data_set(keys), syntax)
    finally:
        pydicom_settings.writing_validation_mode = before


@SYNTAXES
@given(keys=ENTRIES)
@example(keys={"SpecificCharacterSet": "GB18030", "PatientName": "王^小东", "PatientID": "丂\\丂"})
@example(keys={"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"})
def test_a_data_set_read_directly_is_what_pydicom_reads(syntax: UID, keys: dict[str, Any]) -> None:
    encoded = encoded_of(keys, syntax)
    assert read_directly(encoded, syntax) == read_by_pydicom(encoded, syntax)


@SYNTAXES
@given(
    number=st.integers(1, 50),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=3),
    cut=st.integers(0, 2000),
)
@example(number=1, damage=[(8, b"\0")], cut=28)  # NULs in SpecificCharacterSet
@example(number=1, damage=[(9, b"\0")], cut=28)
@settings(max_examples=100)
def test_a_damaged_data_set_means_the_same_either_way(
    syntax: UID, number: int, damage: list[tuple[int, bytes]], cut: int
) -> None:
    """Bytes replaced and the end cut off, anywhere: the same attributes or the same refusal."""
    encoded = bytearray(encode_identifier(worklist_entry(number), syntax))
    for place, replacement in damage:
        start = place % len(encoded)
        encoded[start : start + len(replacement)] = replacement
    if cut < len(encoded):
        del encoded[cut:]
    assert read_directly(bytes(encoded), syntax) == read_by_pydicom(bytes(encoded), syntax)


@SYNTAXES
def test_sequences_and_items_of_undefined_length_are_read(syntax: UID) -> None:
    entry = worklist_entry(1)
    entry["ScheduledProcedureStepSequence"].is_undefined_length = True
    for item in entry.ScheduledProcedureStepSequence:
        item.is_undefined_length_sequence_item = True
    encoded = encode_identifier(entry, syntax)
    assert b"\xfe\xff\x0d\xe0" in encoded
    found = read_directly(encoded, syntax)
    assert found == read_by_pydicom(encoded, syntax)
    assert found == read_directly(encode_identifier(worklist_entry(1), syntax), syntax)


def test_private_attributes_and_other_syntaxes_are_read_too() -> None:
    entry = worklist_entry(1)
    entry.private_block(0x0009, "MADE UP", create=True).add_new(1, "LO", "private")
    for syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian):
        encoded = encode_identifier(entry, syntax)
        found, _ = read_directly(encoded, syntax)
        assert found[0x0009, "MADE UP", 1] == ("LO", ("private",))


@SYNTAXES
@pytest.mark.parametrize("default_encoding", ["Latin1", "Utf8", "Ascii", "Cyrillic", "Greek", "Chinese"])
@settings(max_examples=30)
@given(keys=ENTRIES)
@example(keys={"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Ивано́в^Иван", "PatientID": "Ω"})
def test_an_answer_encoded_directly_is_pydicoms_byte_for_byte(
    syntax: UID, default_encoding: str, keys: dict[str, Any]
) -> None:
    candidate = Candidate.of(
        decode_identifier(io.BytesIO(encoded_of(keys, ExplicitVRLittleEndian)), ExplicitVRLittleEndian, LIMITS)
    )
    dataset = full_dataset(candidate)
    set_character_set(dataset, default_encoding)
    terms = dataset.get("SpecificCharacterSet") or ()
    terms = (terms,) if isinstance(terms, str) else tuple(terms)
    encoded = encode_candidate(candidate, terms, syntax)
    assert encoded is not None
    assert encoded == encode_identifier(dataset, syntax)
