"""What cannot be matched: malformed keys are refused, odd stored values are not."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from scp.matching import compile_identifier
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal
from tests.fakes.data_sets import data_set, received, with_bytes
from tests.unit.scp.matching.helpers import SPS, compiled

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


class TestMalformedIdentifiers:
    """Raises: Refusal 0xA900 that names the attribute and never its value."""

    @pytest.mark.parametrize(
        ("keyword", "value"),
        [
            ("StudyDate", b"2020-01-02"),
            ("StudyDate", b"20201332"),
            ("StudyDate", b"today "),
            ("StudyDate", b"- "),
            ("StudyTime", b"25"),
            ("StudyTime", b"1060"),
            ("StudyTime", b"10-11-12"),
            ("AcquisitionDateTime", b"20200101120000+9900 "),
            ("AcquisitionDateTime", b"20200101-" * 8),
            ("StudyInstanceUID", b"1.2.*"),
            ("StudyInstanceUID", b"1.2.x"),
            ("StudyInstanceUID", b"1" * 66),
            ("SeriesNumber", b"7-9 "),
            ("PatientID", b"x" * 1026),
            ("ModalitiesInStudy", b"\\".join([b"CT"] * 300)),
            ("PatientName", b"*?" * 600),
        ],
    )
    def test_are_refused(self, keyword: str, value: bytes) -> None:
        with pytest.raises(Refusal) as refused:
            compile_identifier(with_bytes(Dataset(), keyword, value))
        assert refused.value.status == DATA_SET_DOES_NOT_MATCH
        assert refused.value.comment.startswith(f"{keyword}: ")
        assert value.decode().strip() not in refused.value.comment

    def test_a_list_of_too_many_uids_is_refused(self) -> None:
        with pytest.raises(Refusal, match="too many values"):
            compiled({"StudyInstanceUID": ["1.2"] * 10_001})

    def test_too_many_keys_are_refused(self) -> None:
        keys = Dataset()
        keys.add_new(0x00110010, "LO", "ACME 1.1")
        for block in range(3):
            keys.add_new(0x00110010 | block, "LO", f"ACME 1.{block}")
            for element in range(256):
                keys.add_new(0x00111000 | block << 8 | element, "LO", "x")
        with pytest.raises(Refusal, match="too many keys"):
            compile_identifier(received(keys, implicit_vr=False))

    def test_too_deep_nesting_is_refused(self) -> None:
        keys: dict[str, Any] = {"Modality": "CT"}
        for _ in range(20):
            keys = {SPS: keys}
        with pytest.raises(Refusal, match="nested too deeply"):
            compiled(keys)

    def test_a_sequence_with_a_value_that_is_none_is_refused(self) -> None:
        with pytest.raises(Refusal) as refused:
            compile_identifier(with_bytes(Dataset(), SPS, b"garbage."))
        assert refused.value.status == DATA_SET_DOES_NOT_MATCH


class TestCandidates:
    def test_conversions_that_fail_in_pydicom_do_not_matter(self) -> None:
        stored = received(data_set(PatientID="P1"))
        for keyword, value in (("SeriesNumber", b"seven "), ("PatientWeight", b"heavy "), ("Rows", b"abc")):
            with_bytes(stored, keyword, value)
        matcher = compiled({"PatientID": "P1", "SeriesNumber": "", "PatientWeight": "", "Rows": None})
        assert matcher.matches(stored)
        answer = matcher.answer(stored)
        assert answer["SeriesNumber"].value == "seven"
        assert answer["Rows"].is_empty
        received(answer)  # it can be encoded

    @pytest.mark.parametrize(
        ("keyword", "key"), [("PatientID", "P*"), ("StudyDate", "20200101-"), ("PatientName", "P")]
    )
    def test_a_sequence_where_text_is_expected_matches_nothing(self, keyword: str, key: str) -> None:
        stored = Dataset()
        stored.add_new(Tag(keyword), "SQ", [data_set(Modality="CT")])
        assert not compiled({keyword: key}).matches(stored)

    def test_text_where_a_sequence_is_expected_matches_nothing(self) -> None:
        stored = Dataset()
        stored.add_new(Tag(SPS), "LO", "CT")
        matcher = compiled({SPS: {"Modality": "CT"}})
        assert not matcher.matches(stored)
        assert matcher.answer(stored)[SPS].value == "CT"

    def test_values_that_pydicom_has_converted_match_as_well(self) -> None:
        stored = data_set(
            {
                "PatientName": "Smith^John",
                "SeriesNumber": "7",
                "PatientWeight": "70.5",
                "StudyDate": "20200101",
                SPS: {},
            }
        )
        assert compiled({"PatientName": "smith*", "SeriesNumber": "7", "PatientWeight": "70.50"}).matches(stored)
        assert compiled({"StudyDate": "20200101"}).matches(stored)
