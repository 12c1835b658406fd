"""The direct encoding of plain answers is pydicom's, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from scp.query.encoding import encode_plain
from tests.fakes.dimse_request import encode

TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\=^"), max_size=16).map(
    str.strip
)
ANSWERS = st.fixed_dictionaries({}, optional={
    "PatientName": TEXT,
    "PatientID": TEXT,
    "StudyInstanceUID": st.sampled_from(["", "1.2", "1.2.3"]),
    "ModalitiesInStudy": st.lists(st.sampled_from(["CT", "MR", "SR"]), max_size=3),
    "StudyDate": st.sampled_from(["", "20240229"]),
    "NumberOfStudyRelatedInstances": st.sampled_from(["1", "12", ""]),
    "StudyDescription": TEXT,
    "ImageComments": TEXT,
})  # fmt: skip


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@given(answer=ANSWERS)
def test_plain_answers_are_encoded_as_pydicom_does(transfer_syntax: str, answer: dict[str, Any]) -> None:
    dataset = Dataset()
    for keyword, value in answer.items():
        setattr(dataset, keyword, value)
    assert encode_plain(dataset, transfer_syntax) == encode(dataset, transfer_syntax)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientName", "Núñez"), ("Rows", 5), ("ReferencedStudySequence", [Dataset()]), ("TextValue", "long VR")],
)
def test_what_is_not_plain_is_left_to_pydicom(keyword: str, value: object) -> None:
    dataset = Dataset()
    setattr(dataset, keyword, value)
    assert encode_plain(dataset, ExplicitVRLittleEndian) is None


@pytest.mark.parametrize("transfer_syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_transfer_syntaxes_are_left_to_pydicom(transfer_syntax: str) -> None:
    assert encode_plain(Dataset(), transfer_syntax) is None


def test_a_value_too_long_for_explicit_vr_is_left_to_pydicom() -> None:
    dataset = Dataset()
    dataset.SOPClassesInStudy = ["1.2.840.10008.5.1.4.1.1.2"] * 3000
    assert encode_plain(dataset, ExplicitVRLittleEndian) is None
