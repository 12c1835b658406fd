"""Single values, lists of UID, universal and wild card matching: PS3.4 C.2.2.2.1 to C.2.2.2.4, and C.2.2.3."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from scp.matching import MatchingOptions, compile_identifier
from scp.statuses import Refusal
from tests.fakes.data_sets import data_set, received, with_bytes
from tests.unit.scp.matching.helpers import compiled, match

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


class TestC22211SingleValue:
    @pytest.mark.parametrize(
        ("keyword", "key", "stored", "expected"),
        [
            ("PatientID", "P1", "P1", True),
            ("PatientID", "P1", "P2", False),
            ("PatientID", "p1", "P1", False),
            ("Modality", "ct", "CT", False),
            ("ScheduledStationAETitle", "ct1", "CT1", False),
            ("StudyInstanceUID", "1.2.3", "1.2.3", True),
            ("StudyInstanceUID", "1.2.3", "1.2.30", False),
            ("PatientAge", "030Y", "030Y", True),
            ("AccessionNumber", "50%_[a-z]$", "50%_[a-z]$", True),
            ("AccessionNumber", "50%", "50 percent", False),
            ("AccessionNumber", "A_1", "AB1", False),
        ],
    )
    def test_is_exact_and_case_sensitive(self, keyword: str, key: str, stored: str, expected: bool) -> None:
        assert match(keyword, key, stored) is expected

    @pytest.mark.parametrize(("key", "stored"), [("7", "007"), ("+7", "7"), ("7", " 7 ")])
    def test_of_integer_strings_is_by_value(self, key: str, stored: str) -> None:
        assert match("SeriesNumber", key, stored)
        assert not match("SeriesNumber", key, "8")

    def test_of_decimal_strings_is_by_value(self) -> None:
        assert match("PatientWeight", "70.50", "7.05E1")

    def test_of_numbers_is_by_value(self) -> None:
        assert match("Rows", 512, 512)
        assert not match("Rows", 512, 511)

    def test_of_attribute_tags(self) -> None:
        assert match("FrameIncrementPointer", 0x00181063, 0x00181063)
        assert not match("FrameIncrementPointer", 0x00181063, 0x00181065)

    def test_works_in_big_endian_too(self) -> None:
        candidate = received(data_set(Rows=512, PatientID="P"), implicit_vr=False, little_endian=False)
        assert compiled({"Rows": 512, "PatientID": "P"}).matches(candidate)


class TestC2222ListOfUid:
    def test_any_may_match(self) -> None:
        assert match("StudyInstanceUID", ["1.2", "1.3"], "1.3")
        assert not match("StudyInstanceUID", ["1.2", "1.3"], "1.4")

    def test_may_be_long(self) -> None:
        uids = [f"1.2.840.10008.{number}" for number in range(5000)]
        assert match("StudyInstanceUID", uids, uids[-1])


class TestC2223Universal:
    @pytest.mark.parametrize("keyword", ["PatientName", "StudyDate", "StudyInstanceUID", "SeriesNumber"])
    @pytest.mark.parametrize("unknown_value_matches", [True, False])
    def test_zero_length_matches_everything_the_empty_included(self, keyword: str, unknown_value_matches: bool) -> None:
        matcher = compiled({keyword: None}, unknown_value_matches=unknown_value_matches)
        assert matcher.is_universal
        assert matcher.matches(received(data_set({keyword: None})))
        assert matcher.matches(Dataset())

    @pytest.mark.parametrize("keyword", ["PatientName", "StudyDate", "StudyTime", "StudyInstanceUID"])
    def test_a_lone_asterisk_is_universal_whatever_the_vr(self, keyword: str) -> None:
        keys = with_bytes(Dataset(), keyword, b"* ")
        assert compile_identifier(keys, MatchingOptions(unknown_value_matches=False)).matches(Dataset())


class TestC2224WildCard:
    @pytest.mark.parametrize(
        ("key", "stored", "expected"),
        [
            ("A*", "A", True),
            ("A*", "ABC", True),
            ("A*", "BA", False),
            ("*C", "ABC", True),
            ("A*A", "A", False),
            ("A*A", "AA", True),
            ("*B*", "ABC", True),
            ("A?C", "ABC", True),
            ("A?C", "AC", False),
            ("A?", "ABC", False),
            ("?", "A", True),
            ("A*B?D*", "AXXBBCD", True),
            ("A*B?D*", "AXXBBCCD", False),
            ("A*B?D*", "AXXBCDE", True),
            ("a*", "ABC", False),
            ("A%", "ABC", False),
            ("[A]*", "ABC", False),
            (".*", "ABC", False),
        ],
    )
    def test_in_text(self, key: str, stored: str, expected: bool) -> None:
        assert match("PatientID", key, stored) is expected

    @pytest.mark.parametrize(
        "keyword",
        ["ScheduledStationAETitle", "Modality", "PatientID", "PatientName", "AccessionNumber", "PatientComments"],
    )
    def test_in_every_vr_that_has_them(self, keyword: str) -> None:
        assert match(keyword, "C?1*", "CX1A")

    def test_in_person_names_without_regard_to_case(self) -> None:
        assert match("PatientName", "smi*^j?hn", "SMITH^JOHN")

    @pytest.mark.parametrize("stored", ["SMITH", "SMITH^", "SMITH^JOHN"])
    def test_components_that_are_left_out_are_empty_components(self, stored: str) -> None:
        assert match("PatientName", "SMITH^*", stored)
        assert match("PatientName", "SMITH*^*", stored)

    def test_have_no_meaning_elsewhere(self) -> None:
        with pytest.raises(Refusal):
            compiled({"StudyDate": "2020*"})

    def test_no_pattern_is_slow(self) -> None:
        """A matcher that backtracks, or a regular expression, would need longer than the universe has."""
        assert not match("PatientComments", "*A" * 500 + "?B", "A" * 10_000)


class TestC2227EmptyValue:
    def test_matches_only_empty_when_negotiated(self) -> None:
        assert match("AccessionNumber", '""', "", empty_value_matching=True, unknown_value_matches=False)
        assert not match("AccessionNumber", '""', "A1", empty_value_matching=True)

    def test_is_text_when_not_negotiated(self) -> None:
        assert not match("AccessionNumber", '""', "", unknown_value_matches=False)


class TestC2228MultipleValues:
    STORED = ("CT", "PT")

    def test_any_suffices_unless_negotiated(self) -> None:
        assert match("ModalitiesInStudy", ["PT", "MR"], list(self.STORED))
        assert not match("ModalitiesInStudy", ["US", "MR"], list(self.STORED))

    def test_all_are_needed_when_negotiated(self) -> None:
        assert match("ModalitiesInStudy", ["PT", "CT"], list(self.STORED), all_values_required=True)
        assert not match("ModalitiesInStudy", ["PT", "MR"], list(self.STORED), all_values_required=True)


class TestC223MultiValuedAttributes:
    def test_one_value_suffices_and_all_are_answered(self) -> None:
        stored = received(data_set(ScheduledStationAETitle=["CT1", "CT2"]))
        matcher = compiled({"ScheduledStationAETitle": "CT2"})
        assert matcher.matches(stored)
        assert list(matcher.answer(stored).ScheduledStationAETitle) == ["CT1", "CT2"]


class TestPadding:
    """PS3.5 6.2: which spaces mean nothing."""

    @pytest.mark.parametrize("keyword", ["ScheduledStationAETitle", "Modality", "PatientID", "AccessionNumber"])
    def test_leading_and_trailing_spaces_mean_nothing(self, keyword: str) -> None:
        assert match(keyword, " X1 ", "X1")
        assert match(keyword, "X1", "  X1")

    @pytest.mark.parametrize("keyword", ["PatientName", "PatientComments"])
    def test_leading_spaces_of_names_and_texts_count(self, keyword: str) -> None:
        assert match(keyword, "X1 ", "X1")
        assert not match(keyword, "X1", " X1")

    def test_nul_pads_uids(self) -> None:
        assert match("StudyInstanceUID", "1.2.3\0", "1.2.3")
