"""Sequences, unknown values, unsupported and private attributes: PS3.4 C.2.2.1 and C.2.2.2.6."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from scp.matching import Candidate, MatchingOptions, compile_identifier
from scp.statuses import Refusal
from tests.fakes.data_sets import data_set, received
from tests.unit.scp.matching.helpers import SPS, compiled, match

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


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
