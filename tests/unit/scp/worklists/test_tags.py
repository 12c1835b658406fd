"""Data sets in JSON: Orthanc's tag format and the DICOM JSON model (PS3.18 Annex F)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from scp.upper_layer.identifier import encode_identifier
from scp.worklists.entry import read_data_set
from scp.worklists.tags import FORMATS, InvalidTags, data_set_of, tags_of

TAGS: dict[str, Any] = {
    "PatientName": "Muster^Jürgen=山田^太郎",
    "PatientID": "P1",
    "PatientBirthDate": "",
    "PregnancyStatus": 4,
    "ScheduledProcedureStepSequence": [{"Modality": "CT", "ScheduledStationAETitle": "CT1\\CT2"}],
}


@pytest.mark.parametrize("name", ["PatientID", "0010,0020", "00100020", "0010-0020"])
def test_an_attribute_is_named_by_its_keyword_or_its_tag(name: str) -> None:
    assert data_set_of({name: "P1"}).PatientID == "P1"


def test_several_values_are_a_list_or_a_string_with_backslashes() -> None:
    for value in ("CT1\\CT2", ["CT1", "CT2"]):
        assert list(data_set_of({"ScheduledStationAETitle": value}).ScheduledStationAETitle) == ["CT1", "CT2"]
    assert data_set_of({"AdditionalPatientHistory": "one\\still one"}).AdditionalPatientHistory == "one\\still one"


def test_the_character_set_of_the_body_means_nothing_because_json_is_unicode() -> None:
    assert "SpecificCharacterSet" not in data_set_of({"SpecificCharacterSet": "ISO_IR 100", "PatientID": "P1"})


def test_ps3_18_f2_the_dicom_json_model_is_read() -> None:
    model = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "00100030": {"vr": "DA"},
        "00400100": {"vr": "SQ", "Value": [{"00080060": {"vr": "CS", "Value": ["CT"]}}]},
    }
    dataset = data_set_of(model)
    assert dataset.PatientName == "Yamada^Tarou=山田^太郎"
    assert dataset.ScheduledProcedureStepSequence[0].Modality == "CT"
    assert not dataset.PatientBirthDate


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_stored_is_shown_as_it_was_given(form: str) -> None:
    stored = data_set_of(TAGS)
    stored.SpecificCharacterSet = "ISO_IR 192"
    shown = tags_of(read_data_set(encode_identifier(stored, ExplicitVRLittleEndian)), form)
    if form == "Full":
        assert shown["0010,0010"] == {"Name": "PatientName", "Type": "String", "Value": TAGS["PatientName"]}
        return
    again = data_set_of(shown)
    del stored.SpecificCharacterSet
    assert again == stored
    if form == "Simplify":
        assert shown["PatientName"] == TAGS["PatientName"]
        assert shown["PregnancyStatus"] == "4"
        assert shown["ScheduledProcedureStepSequence"][0]["ScheduledStationAETitle"] == "CT1\\CT2"


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"NoSuchKeyword": "x"}, "NoSuchKeyword"),
        ({"0009,1001": "x"}, "dictionary"),
        ({"0002,0010": "1.2"}, "attribute"),
        ({"PatientBirthDate": "SECRET"}, "PatientBirthDate"),
        ({"PatientBirthDate": "20240101-20240102"}, "PatientBirthDate"),
        ({"PatientBirthDate": "20240230"}, "PatientBirthDate"),
        ({"ScheduledProcedureStepStartTime": "2561"}, "ScheduledProcedureStepStartTime"),
        ({"ScheduledStationAETitle": "LONGER_THAN_SIXTEEN"}, "ScheduledStationAETitle"),
        ({"Modality": "lower"}, "Modality"),
        ({"StudyInstanceUID": "1.2.SECRET"}, "StudyInstanceUID"),
        ({"PatientID": "SECRET\x1b[2J"}, "PatientID"),
        ({"PatientID": "SECRET\r\nX"}, "PatientID"),
        ({"PatientID": "\ud800"}, "PatientID"),
        ({"PatientID": {"a": "SECRET"}}, "JSON model"),
        ({"PatientID": True}, "PatientID"),
        ({"PregnancyStatus": "SECRET"}, "PregnancyStatus"),
        ({"PregnancyStatus": 70000}, "PregnancyStatus"),
        ({"ScheduledProcedureStepSequence": "SECRET"}, "ScheduledProcedureStepSequence"),
        ({"PixelData": "AAAA"}, "PixelData"),
        ({"PatientID": "1", "00100020": "2"}, "twice"),
    ],
)
def test_what_is_no_data_set_is_refused_by_name_and_never_by_value(tags: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidTags) as refused:
        data_set_of(tags)
    assert named in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_depth_and_number_of_attributes_are_bounded() -> None:
    nested: dict[str, Any] = {"PatientID": "P"}
    for _ in range(100):
        nested = {"ScheduledProcedureStepSequence": [nested]}
    with pytest.raises(InvalidTags, match="deep"):
        data_set_of(nested)
    with pytest.raises(InvalidTags, match="more than"):
        data_set_of({"ScheduledProcedureStepSequence": [{"PatientID": "P"}] * 2000})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["PatientID", "PatientName", "PatientBirthDate", "PregnancyStatus", "PatientWeight", "00400100"]
)


@given(st.dictionaries(NAMES | st.text(max_size=10), JSON, max_size=4))
def test_any_json_is_a_data_set_that_can_be_encoded_or_is_refused(tags: dict[str, Any]) -> None:
    try:
        dataset = data_set_of(tags)
    except InvalidTags:
        return
    dataset.SpecificCharacterSet = "ISO_IR 192"
    decoded = read_data_set(encode_identifier(dataset, ExplicitVRLittleEndian))
    assert isinstance(decoded, Dataset)
    tags_of(decoded, "Simplify")
