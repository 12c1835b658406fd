"""Attribute matching, one test or more for each clause of PS3.4 C.2.2.2; in order, they are the specification."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from scp.matching import Candidate, Matcher, MatchingOptions, compile_identifier
from scp.statuses import DATA_SET_DOES_NOT_MATCH, Refusal
from tests.fakes.data_sets import data_set, received, with_bytes

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write

SPS = "ScheduledProcedureStepSequence"


def compiled(keys: dict[str, Any] | Dataset, **options: Any) -> Matcher:
    keys = keys if isinstance(keys, Dataset) else data_set(keys)
    return compile_identifier(received(keys), MatchingOptions(**options))


def match(keyword: str, key: Any, stored: Any, **options: Any) -> bool:
    """Whether a key matches a stored value of the same attribute, both encoded and decoded on the way."""
    candidate = received(data_set({keyword: stored}))
    return compiled({keyword: key}, **options).matches(candidate)


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


class TestC222111PersonName:
    @pytest.mark.parametrize("key", ["smith^john", "SMITH^JOHN", "Smith^John^^", "SMITH^JOHN^^^=="])
    def test_ignores_case_and_trailing_empty_components(self, key: str) -> None:
        assert match("PatientName", key, "Smith^John")

    def test_is_case_sensitive_when_configured(self) -> None:
        assert not match("PatientName", "smith^john", "Smith^John", case_sensitive_person_names=True)
        assert match("PatientName", "Smith^John", "Smith^John", case_sensitive_person_names=True)

    def test_ignores_case_of_accented_letters_but_not_accents(self) -> None:
        stored = data_set(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Élodie")
        upper = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="MÜLLER^ÉLODIE")
        assert compiled(upper).matches(received(stored))
        assert not compiled({"PatientName": "muller^elodie"}).matches(received(stored))

    def test_ignores_accents_when_configured(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Élodie"))
        assert compiled({"PatientName": "muller^elo*"}, ignore_accents=True).matches(stored)

    def test_ignoring_accents_keeps_the_marks_that_make_kana(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 192", PatientName="==がく"))
        key = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="==かく")
        assert not compiled(key, ignore_accents=True).matches(stored)

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("yamada*", True),
            ("山田*", True),
            ("=山田*", True),
            ("Yamada^Tarou=山田^太郎", True),
            ("山田*=*", False),
            ("Yamada*=鈴木*", False),
            ("==やまだ*", True),
            ("==やまだ*=", True),
        ],
    )
    def test_matches_by_component_group(self, key: str, expected: bool) -> None:
        stored = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
        keys = data_set(SpecificCharacterSet="ISO_IR 192", PatientName=key)
        assert compiled(keys).matches(received(stored)) is expected

    def test_sharp_s_is_one_character(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientName="GROß^A"))
        assert compiled({"PatientName": "gro?^a"}).matches(stored)

    def test_final_sigma_is_sigma(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 192", PatientName="Παπαδόπουλος"))
        keys = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="ΠΑΠΑΔΌΠΟΥΛΟΣ*")
        assert compiled(keys).matches(stored)


class TestC222113DatesAndTimesByMeaning:
    @pytest.mark.parametrize(
        ("keyword", "key", "stored", "expected"),
        [
            ("StudyDate", "19980822", "1998.08.22", True),
            ("StudyDate", "1998.08.22", "19980822", True),
            ("StudyDate", "19980822", "19980823", False),
            ("StudyTime", "2230", "223000", True),
            ("StudyTime", "223000.000", "2230", True),
            ("StudyTime", "22:30:00", "223000", True),
            ("StudyTime", "22", "2230", False),
            ("StudyTime", "235960", "235960", True),
            ("AcquisitionDateTime", "20200101120000+0100", "20200101110000+0000", True),
            ("AcquisitionDateTime", "20200101120000+0100", "20200101120000+0000", False),
            ("AcquisitionDateTime", "202001011200", "20200101120000.000", True),
        ],
    )
    def test_single_value(self, keyword: str, key: str, stored: str, expected: bool) -> None:
        assert match(keyword, key, stored) is expected

    def test_timezone_of_the_data_sets_counts_for_date_times_without_one(self) -> None:
        stored = received(data_set(AcquisitionDateTime="20200101110000", TimezoneOffsetFromUTC="+0000"))
        keys = data_set(AcquisitionDateTime="20200101120000", TimezoneOffsetFromUTC="+0100")
        assert compiled(keys).matches(stored)
        keys.TimezoneOffsetFromUTC = "-0500"
        assert not compiled(keys).matches(stored)

    def test_configured_timezone_counts_where_nothing_else_says(self) -> None:
        assert match("AcquisitionDateTime", "20200101120000", "20200101110000+0000", timezone_offset=60)

    @pytest.mark.parametrize("stored", ["20201301", "yesterday", "2020", "99999999"])
    def test_a_stored_value_that_is_no_date_matches_no_date(self, stored: str) -> None:
        assert not match("StudyDate", "20200101-", stored)
        assert match("StudyDate", "", stored)


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


class TestC2225Range:
    @pytest.mark.parametrize(
        ("key", "matching", "other"),
        [
            ("20200101-20200131", ["20200101", "20200115", "20200131", "2020.01.31"], ["20191231", "20200201"]),
            ("-20200131", ["19000101", "20200131"], ["20200201"]),
            ("20200101-", ["20200101", "29991231"], ["20191231"]),
            ("2020.01.01-2020.01.31", ["20200115"], ["20200201"]),
            ("20200101 - 20200131", ["20200115"], ["20200201"]),
            ("20200131-20200101", [], ["20200115", "20200101"]),
        ],
    )
    def test_c22251_of_dates(self, key: str, matching: list[str], other: list[str]) -> None:
        assert all(match("StudyDate", key, stored) for stored in matching)
        assert not any(match("StudyDate", key, stored) for stored in other)

    @pytest.mark.parametrize(
        ("key", "matching", "other"),
        [
            ("1000-1200", ["10", "1000", "110000", "120000", "120059.999999"], ["095959", "120100"]),
            ("-12", ["000000", "125959"], ["1300"]),
            ("100000-", ["10", "235960"], ["095959.999999"]),
            ("100000-100000", ["100000.5"], ["100001"]),
            ("100000-100000.5", ["100000.5", "100000.599999"], ["100000.6"]),
            ("22-02", [], ["23", "01"]),
        ],
    )
    def test_c22252_of_times(self, key: str, matching: list[str], other: list[str]) -> None:
        """The end of a range includes all that its precision covers; a range does not cross midnight."""
        assert all(match("StudyTime", key, stored) for stored in matching)
        assert not any(match("StudyTime", key, stored) for stored in other)

    @pytest.mark.parametrize(
        ("key", "matching", "other"),
        [
            ("2020-2021", ["20200101", "20211231235959", "202106"], ["20191231", "2022"]),
            ("20200101120000-0500-20200101130000-0500", ["20200101173000+0000"], ["20200101123000+0000"]),
            ("-20200101120000-0500", ["20200101170000+0000"], ["20200101170001+0000"]),
            ("20200101120000-0500-", ["20200101170000+0000"], ["20200101165959+0000"]),
            ("20200101120000+0100-20200101130000-0500", ["20200101110000+0000"], ["20200101105959+0000"]),
            ("20200228-202002", ["20200229235959.999999"], ["20200301"]),
            ("202012-202012", ["20201231"], ["20210101"]),
            ("20200101120000-0500", [], ["20200101120000-0500"]),
        ],
    )
    def test_c22253_of_date_times_with_offsets(self, key: str, matching: list[str], other: list[str]) -> None:
        assert all(match("AcquisitionDateTime", key, stored) for stored in matching)
        assert not any(match("AcquisitionDateTime", key, stored) for stored in other)

    def test_c22254_date_and_time_are_independent_unless_combined(self) -> None:
        keys = {"StudyDate": "20200101-20200103", "StudyTime": "100000-120000"}
        stored = received(data_set(StudyDate="20200102", StudyTime="090000"))
        assert not compiled(keys).matches(stored)
        assert compiled(keys, combined=((0x00080020, 0x00080030),)).matches(stored)

    @pytest.mark.parametrize(
        ("date", "time", "expected"),
        [
            ("20200101", "095959", False),
            ("20200101", "100000", True),
            ("20200102", "0000", True),
            ("20200103", "120000", True),
            ("20200103", "120001", False),
        ],
    )
    def test_c22254_combined(self, date: str, time: str, expected: bool) -> None:
        keys = {"StudyDate": "20200101-20200103", "StudyTime": "100000-120000"}
        stored = received(data_set(StudyDate=date, StudyTime=time))
        assert compiled(keys, combined=((0x00080020, 0x00080030),)).matches(stored) is expected

    @pytest.mark.parametrize(
        ("date", "time", "matching", "other"),
        [
            ("20200101-", "10-", [("20200101", "10"), ("20300101", "01")], [("20200101", "0959")]),
            ("-20200101", "-10", [("20200101", "1059"), ("20000101", "23")], [("20200101", "11")]),
            ("20200101-20200102", "-10", [("20200101", "00"), ("20200102", "10")], [("20200102", "11")]),
            ("20200101-20200102", "10-", [("20200102", "235960")], [("20200101", "09"), ("20200103", "00")]),
        ],
    )
    def test_c22254_combined_with_open_ends(
        self, date: str, time: str, matching: list[tuple[str, str]], other: list[tuple[str, str]]
    ) -> None:
        matcher = compiled({"StudyDate": date, "StudyTime": time}, combined=((0x00080020, 0x00080030),))
        assert all(matcher.matches(received(data_set(StudyDate=d, StudyTime=t))) for d, t in matching)
        assert not any(matcher.matches(received(data_set(StudyDate=d, StudyTime=t))) for d, t in other)

    def test_c22254_combined_counts_time_zones_when_both_sides_name_one(self) -> None:
        keys = data_set(StudyDate="20200101-20200101", StudyTime="2300-2359", TimezoneOffsetFromUTC="-0500")
        matcher = compiled(keys, combined=((0x00080020, 0x00080030),))
        stored = data_set(StudyDate="20200102", StudyTime="0430", TimezoneOffsetFromUTC="+0000")
        assert matcher.matches(received(stored))
        del stored.TimezoneOffsetFromUTC
        assert not matcher.matches(received(stored))

    def test_c22254_a_single_value_leaves_them_independent(self) -> None:
        keys = {"StudyDate": "20200101", "StudyTime": "100000-120000"}
        matcher = compiled(keys, combined=((0x00080020, 0x00080030),))
        assert matcher.matches(received(data_set(StudyDate="20200101", StudyTime="11")))
        assert not matcher.matches(received(data_set(StudyDate="20200101", StudyTime="13")))


class TestC2226Sequence:
    STORED = data_set(
        {
            "PatientID": "P",
            SPS: [
                {"Modality": "CT", "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepID": "1"},
                {"Modality": "MR", "ScheduledStationAETitle": "MR1", "ScheduledProcedureStepID": "2"},
            ],
        }
    )

    def test_all_keys_match_within_one_item(self) -> None:
        stored = received(self.STORED)
        assert compiled({SPS: {"Modality": "CT", "ScheduledStationAETitle": "CT1"}}).matches(stored)
        assert not compiled({SPS: {"Modality": "CT", "ScheduledStationAETitle": "MR1"}}).matches(stored)

    def test_answers_the_matching_items_with_only_what_was_asked(self) -> None:
        matcher = compiled({SPS: {"Modality": "MR", "ScheduledProcedureStepID": ""}})
        answer = matcher.answer(received(self.STORED))
        assert answer == data_set({SPS: {"Modality": "MR", "ScheduledProcedureStepID": "2"}})

    @pytest.mark.parametrize("key", [[], [{}]], ids=["no item", "one empty item"])
    def test_empty_is_universal_and_answers_everything(self, key: list[dict[str, Any]]) -> None:
        keys = Dataset()
        keys.add_new(0x00400100, "SQ", [data_set(item) for item in key])
        matcher = compiled(keys)
        assert matcher.is_universal
        assert matcher.answer(received(self.STORED))[SPS].value == self.STORED[SPS].value

    def test_nests(self) -> None:
        stored = {SPS: {"ScheduledProtocolCodeSequence": [{"CodeValue": "A"}, {"CodeValue": "B"}]}}
        matcher = compiled({SPS: {"ScheduledProtocolCodeSequence": {"CodeValue": "B"}}})
        assert matcher.matches(received(data_set(stored)))
        answer = matcher.answer(received(data_set(stored)))
        assert [item.CodeValue for item in answer[SPS][0].ScheduledProtocolCodeSequence] == ["B"]

    def test_more_than_one_item_in_the_key_is_malformed(self) -> None:
        with pytest.raises(Refusal, match="more than one item"):
            compiled({SPS: [{"Modality": "CT"}, {"Modality": "MR"}]})


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


class TestC2212UnknownValues:
    @pytest.mark.parametrize("stored", [{}, {"PatientBirthDate": ""}], ids=["absent", "empty"])
    def test_match_in_query_retrieve_and_fail_in_worklist(self, stored: dict[str, Any]) -> None:
        keys = {"PatientBirthDate": "19600101"}
        assert compiled(keys).matches(received(data_set(stored)))
        assert not compiled(keys, unknown_value_matches=False).matches(received(data_set(stored)))

    def test_k22111_an_asterisk_alone_finds_them_another_wild_card_does_not(self) -> None:
        assert match("AccessionNumber", "*", "", unknown_value_matches=False)
        assert not match("AccessionNumber", "A*", "", unknown_value_matches=False)


class TestC2213UnsupportedAttributes:
    OPTIONS = MatchingOptions(unknown_value_matches=False, supported={0x00100020: {}})

    def test_are_neither_matched_nor_answered(self) -> None:
        matcher = compile_identifier(received(data_set(PatientID="P", PatientComments="X")), self.OPTIONS)
        candidate = Candidate.of(received(data_set(PatientID="P")))
        assert matcher.matches(candidate)
        assert matcher.answer(candidate) == data_set(PatientID="P")
        assert not matcher.supports(candidate)

    def test_are_supported_where_a_candidate_holds_them(self) -> None:
        matcher = compile_identifier(received(data_set(PatientID="P", PatientComments="X")), self.OPTIONS)
        candidate = Candidate.of(received(data_set(PatientID="P", PatientComments="Y")))
        assert not matcher.matches(candidate)
        assert matcher.supports(candidate)

    def test_supported_attributes_are_answered_empty(self) -> None:
        matcher = compile_identifier(received(data_set(PatientID="")), self.OPTIONS)
        assert matcher.supports(Candidate({}))
        answer = matcher.answer(Candidate({}))
        assert answer["PatientID"].is_empty


class TestC222NeverMatched:
    def test_character_set_time_zone_level_and_group_lengths(self) -> None:
        keys = data_set(SpecificCharacterSet="ISO_IR 192", TimezoneOffsetFromUTC="+0100", QueryRetrieveLevel="STUDY")
        keys.add_new(0x00100000, "UL", 42)
        keys.PatientID = "P"
        matcher = compiled(keys, unknown_value_matches=False)
        assert matcher.matches(received(data_set(PatientID="P")))
        assert matcher.answer(received(data_set(PatientID="P"))) == data_set(PatientID="P")


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


class TestCharacterSets:
    """PS3.5 6.1: each side is decoded with its own character set, compared in normalization form C."""

    @pytest.mark.parametrize(
        "charset", ["ISO_IR 100", "ISO_IR 192", "GB18030", "ISO 2022 IR 100", ["", "ISO 2022 IR 100"]]
    )
    def test_key_and_value_have_their_own(self, charset: str | list[str]) -> None:
        stored = received(data_set(SpecificCharacterSet=charset, PatientID="Zürich 1"))
        key = data_set(SpecificCharacterSet="ISO_IR 192", PatientID="Zürich 1")
        assert compiled(key).matches(stored)

    @pytest.mark.parametrize(
        ("charset", "name"),
        [
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
            ("GB18030", "Wang^XiaoDong=王^小东"),
            ("ISO_IR 144", "Люкceмбypг"),  # noqa: RUF001 - Cyrillic is the point
            ("ISO_IR 126", "Διονυσιος"),
            ("ISO_IR 138", "שרון^דבורה"),
            ("ISO_IR 166", "สมชาย"),
        ],
    )
    def test_the_examples_of_the_standard(self, charset: str | list[str], name: str) -> None:
        stored = received(data_set(SpecificCharacterSet=charset, PatientName=name))
        matcher = compiled(data_set(SpecificCharacterSet="ISO_IR 192", PatientName=name))
        assert matcher.matches(stored)
        assert str(matcher.answer(stored).PatientName) == name
        assert not compiled({"PatientName": "Other"}).matches(stored)

    def test_simplified_chinese_with_code_extensions(self) -> None:
        """PS3.5 K.2; the bytes are the Standard's, because pydicom writes none of the escape sequences."""
        name = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
        stored = with_bytes(data_set(SpecificCharacterSet=["", "ISO 2022 IR 58"]), "PatientName", name)
        matcher = compiled(data_set(SpecificCharacterSet="ISO_IR 192", PatientName="张^小东"))
        assert matcher.matches(stored)
        assert str(matcher.answer(stored).PatientName) == "Zhang^XiaoDong=张^小东"

    def test_a_trail_byte_of_0x5c_does_not_split(self) -> None:
        name = "張誠乗"  # GB18030 encodes 乗 as 81 5C
        assert b"\\" in name.encode("gb18030")
        stored = received(data_set(SpecificCharacterSet="GB18030", PatientID=name))
        matcher = compiled(data_set(SpecificCharacterSet="ISO_IR 192", PatientID=name))
        assert matcher.matches(stored)

    def test_composed_and_decomposed_letters_are_equal(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 192", PatientID="Zu\u0308rich"))
        assert compiled(data_set(SpecificCharacterSet="ISO_IR 100", PatientID="Z\u00fcrich")).matches(stored)

    def test_items_inherit_it(self) -> None:
        stored = received(data_set({"SpecificCharacterSet": "ISO_IR 192", SPS: {"ScheduledStationName": "Gerät"}}))
        key = data_set({"SpecificCharacterSet": "ISO_IR 100", SPS: {"ScheduledStationName": "Gerät"}})
        assert compiled(key).matches(stored)

    def test_data_sets_without_one_have_the_configured_one(self) -> None:
        stored = received(data_set(PatientID=b"Gda\xf1sk".decode("latin_1")))
        key = data_set(SpecificCharacterSet="ISO_IR 192", PatientID="Gdańsk")
        assert compiled(key, default_encoding="iso8859_2").matches(stored)

    def test_a_key_that_is_not_in_its_character_set_is_malformed(self) -> None:
        keys = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientID="Zürich"))
        keys.SpecificCharacterSet = "ISO_IR 192"
        with pytest.raises(Refusal, match="PatientID: not in its character set"):
            compile_identifier(keys)

    def test_an_undecodable_stored_value_does_not_raise(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientID="Zürich", AccessionNumber="1"))
        stored.SpecificCharacterSet = "ISO_IR 192"
        assert compiled({"AccessionNumber": "1"}).matches(stored)


class TestPrivateAttributes:
    """PS3.5 7.8.1: a private attribute is named by its creator, its block number means nothing."""

    @staticmethod
    def private(block: int, value: str, creator: str = "ACME 1.1") -> Dataset:
        dataset = Dataset()
        dataset.add_new(0x00110000 | block, "LO", creator)
        dataset.add_new(0x00110000 | block << 8 | 0x01, "LO", value)
        return dataset

    def test_match_by_creator_whatever_the_block(self) -> None:
        matcher = compile_identifier(received(self.private(0x10, "X"), implicit_vr=False))
        options = MatchingOptions(unknown_value_matches=False)
        assert matcher.matches(received(self.private(0x42, "X"), implicit_vr=False))
        assert not matcher.matches(received(self.private(0x10, "Y"), implicit_vr=False))
        strict = compile_identifier(received(self.private(0x10, "X"), implicit_vr=False), options)
        assert not strict.matches(received(self.private(0x10, "X", "OTHER"), implicit_vr=False))

    def test_are_answered_with_their_creator(self) -> None:
        matcher = compile_identifier(received(self.private(0x20, ""), implicit_vr=False))
        answer = matcher.answer(received(self.private(0x42, "X"), implicit_vr=False))
        assert answer.private_block(0x0011, "ACME 1.1")[0x01].value == "X"

    def test_take_their_vr_from_the_options_when_none_is_sent(self) -> None:
        options = MatchingOptions(private_vrs={(0x0011, "ACME 1.1", 0x01): "LO"})
        matcher = compile_identifier(received(self.private(0x10, "X*")), options)
        assert matcher.matches(received(self.private(0x10, "XYZ"), implicit_vr=False))

    def test_without_a_creator_are_ignored(self) -> None:
        keys = Dataset()
        keys.add_new(0x00111001, "LO", "X")
        matcher = compiled(keys, unknown_value_matches=False)
        assert matcher.matches(Dataset())
        assert not matcher.answer(Dataset())


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

    def test_a_value_of_another_kind_matches_nothing(self) -> None:
        stored = Dataset()
        stored.add_new(0x00100020, "SQ", [data_set(Modality="CT")])
        assert not compiled({"PatientID": "P1"}).matches(stored)

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
