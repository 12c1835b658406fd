"""C-FIND of the Modality Worklist Information Model, by the clauses of PS3.4 Annex K."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from config.settings import DicomSettings, OrthancSettings, ScpSettings, WorklistSettings
from scp.matching import Candidate
from scp.request import Peer, Service
from scp.services import worklist
from scp.services.worklist import MODALITY_WORKLIST_FIND, build_worklist_service
from scp.statuses import (
    CANCEL,
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH,
    PENDING,
    PENDING_WARNING,
    SUCCESS,
    Refusal,
)
from tests.fakes.data_sets import data_set, received, with_bytes
from tests.fakes.dimse_request import RecordedRequest, encode
from tests.fakes.worklists import make_worklist_file, worklist_entry, write_worklist_file

SPS = "ScheduledProcedureStepSequence"
EVERYTHING: dict[str, Any] = {"PatientID": "", SPS: {"Modality": "", "ScheduledStationAETitle": ""}}

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


def service(
    folder: Path, dicom: dict[str, Any] | None = None, orthanc: OrthancSettings | None = None, **options: Any
) -> Service:
    settings = ScpSettings(
        directory=folder.with_name(f"{folder.name}-spool"),
        dicom=DicomSettings(**(dicom or {})),
        orthanc=orthanc or OrthancSettings(),
        worklists=WorklistSettings(directory=folder, **options),
    )
    built = build_worklist_service(settings, lambda: DicomSettings(**(dicom or {})))
    assert built
    return built


def request_for(keys: dict[str, Any] | Dataset, **more: Any) -> RecordedRequest:
    keys = keys if isinstance(keys, Dataset) else data_set(keys)
    return RecordedRequest(None, MODALITY_WORKLIST_FIND, keys=received(keys), **more)


def ask(folder: Path, keys: dict[str, Any] | Dataset, **options: Any) -> RecordedRequest:
    request = request_for(keys)
    service(folder, **options).serve(request)
    return request


def answers(request: RecordedRequest) -> list[Dataset]:
    return [answer.identifier for answer in request.responses if isinstance(answer.identifier, Dataset)]


def found(request: RecordedRequest) -> list[str]:
    return [answer.PatientID for answer in answers(request)]


def calling(ae_title: str) -> Peer:
    return Peer(ae_title, "ISEN", "192.0.2.7", None)


class TestK41Service:
    def test_k41_no_match_is_one_response_of_success_without_identifier(self, tmp_path: Path) -> None:
        request = ask(tmp_path, EVERYTHING)
        assert request.statuses == [SUCCESS]
        assert request.final.identifier is None

    def test_k41_one_pending_response_for_each_step_then_success(self, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            make_worklist_file(tmp_path / f"{number}.wl", PatientID=f"P{number}")
        request = ask(tmp_path, EVERYTHING)
        assert request.statuses == [PENDING] * 3 + [SUCCESS]
        assert found(request) == ["P1", "P2", "P3"]

    def test_k6121_an_order_with_two_steps_is_two_responses_with_one_item_each(self, tmp_path: Path) -> None:
        entry = worklist_entry(1)
        entry.ScheduledProcedureStepSequence.append(worklist_entry(2).ScheduledProcedureStepSequence[0])
        write_worklist_file(tmp_path / "1.wl", entry)
        sequences = [answer[SPS].value for answer in answers(ask(tmp_path, {SPS: {"ScheduledProcedureStepID": ""}}))]
        assert [[step.ScheduledProcedureStepID for step in steps] for steps in sequences] == [["SPS1"], ["SPS2"]]

    def test_is_not_offered_without_a_folder(self, tmp_path: Path) -> None:
        assert build_worklist_service(ScpSettings(directory=tmp_path), DicomSettings) is None

    def test_k511_extended_negotiation(self, tmp_path: Path) -> None:
        negotiate = service(tmp_path).negotiate
        assert negotiate
        assert negotiate(b"\1\1\1\1") == b"\1\1\1\1"
        assert negotiate(b"\0\0\0\1\1") == b"\1\1\0\1"
        assert negotiate(b"\0") == b"\1"

    def test_k511_names_match_fuzzily_once_negotiated(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientName="Mueller^Anna")
        keys = {"PatientName": "Anna Müller", "SpecificCharacterSet": "ISO_IR 192"}
        for extended, statuses in ((b"\1\1\1", [PENDING, SUCCESS]), (b"\1\1\0", [SUCCESS])):
            request = request_for(keys, extended_negotiation=extended)
            service(tmp_path).serve(request)
            assert request.statuses == statuses

    def test_k511_times_are_by_the_clock_of_the_request_once_negotiated(self, tmp_path: Path) -> None:
        start = {"ScheduledProcedureStepStartDate": "20240301", "ScheduledProcedureStepStartTime": "0030"}
        make_worklist_file(tmp_path / "1.wl", TimezoneOffsetFromUTC="+0000", **start)
        step = {"ScheduledProcedureStepStartDate": "20240229", "ScheduledProcedureStepStartTime": ""}
        keys = {"TimezoneOffsetFromUTC": "-0100", SPS: step}
        request = request_for(keys, extended_negotiation=b"\1\1\0\1")
        service(tmp_path).serve(request)
        answer = request.responses[0].identifier
        assert isinstance(answer, Dataset)
        assert answer.TimezoneOffsetFromUTC == "-0100"
        assert answer[SPS][0].ScheduledProcedureStepStartTime == "2330"
        request = request_for(keys)
        service(tmp_path).serve(request)
        assert request.statuses == [SUCCESS], "not negotiated: dates are compared as they are"

    def test_private_attributes_of_orthancs_dictionary_are_keys_whatever_the_block(self, tmp_path: Path) -> None:
        entry = worklist_entry(1)
        entry.private_block(0x0011, "ACME 1.1", create=True).add_new(0x01, "LO", "ROOM 1")
        write_worklist_file(tmp_path / "1.wl", entry)
        dictionary: dict[str, tuple[str | int, ...]] = {"0011,1001": ("LO", "Room", 1, 1, "ACME 1.1")}
        for room, statuses in (("ROOM *", [PENDING, SUCCESS]), ("OTHER", [SUCCESS])):
            keys = data_set(PatientID="")
            keys.private_block(0x0011, "OTHER", create=True)
            keys.private_block(0x0011, "ACME 1.1", create=True).add_new(0x01, "LO", room)
            request = request_for(keys)
            service(tmp_path, orthanc=OrthancSettings(dictionary=dictionary)).serve(request)
            assert request.statuses == statuses

    def test_is_governed_by_its_own_permission(self, tmp_path: Path) -> None:
        assert service(tmp_path).permission == "allow_find_worklist"


class TestK61RequiredKeys:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        common = {"PatientName": "Smith^John", "ScheduledPerformingPhysicianName": "Doctor^Any"}
        step = {"Modality": "CT", "ScheduledStationAETitle": ["CT1", "CT2"]}
        date = {"ScheduledProcedureStepStartDate": "20240229", "ScheduledProcedureStepStartTime": "1030"}
        make_worklist_file(tmp_path / "1.wl", **common, **step, **date, PatientID="P1")
        other = {"Modality": "MR", "ScheduledStationAETitle": "MR1"}
        date = {"ScheduledProcedureStepStartDate": "20240301", "ScheduledProcedureStepStartTime": "080000"}
        make_worklist_file(
            tmp_path / "2.wl",
            **other,
            **date,
            PatientID="P2",
            PatientName="Jones^Ann",
            ScheduledPerformingPhysicianName="",
        )
        return tmp_path

    @pytest.mark.parametrize(
        ("step", "expected"),
        [
            ({"ScheduledStationAETitle": "CT1"}, ["P1"]),
            ({"ScheduledStationAETitle": "CT2"}, ["P1"]),
            ({"ScheduledStationAETitle": "CT"}, []),
            ({"Modality": "MR"}, ["P2"]),
            ({"Modality": "*"}, ["P1", "P2"]),
            ({"Modality": "MR", "ScheduledStationAETitle": "CT1"}, []),
            ({"ScheduledProcedureStepStartDate": "20240229"}, ["P1"]),
            ({"ScheduledProcedureStepStartDate": "20240301-"}, ["P2"]),
            ({"ScheduledProcedureStepStartTime": "080000"}, ["P2"]),
            ({"ScheduledProcedureStepStartTime": "10-11"}, ["P1"]),
            ({"ScheduledPerformingPhysicianName": "doc*"}, ["P1"]),
        ],
    )
    def test_of_the_step(self, folder: Path, step: dict[str, str], expected: list[str]) -> None:
        assert found(ask(folder, {"PatientID": "", SPS: step})) == expected

    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            ({"PatientName": "smith*"}, ["P1"]),
            ({"PatientName": "Jones^Ann"}, ["P2"]),
            ({"PatientID": "P2"}, ["P2"]),
            ({"PatientID": "P"}, []),
        ],
    )
    def test_of_the_patient(self, folder: Path, keys: dict[str, str], expected: list[str]) -> None:
        assert found(ask(folder, {"PatientID": "", **keys})) == expected

    @pytest.mark.parametrize(
        ("dates", "times", "expected"),
        [
            ("20240229-20240301", "1000-0900", ["P1", "P2"]),
            ("20240229-20240301", "1100-0900", ["P2"]),
            ("20240229-20240301", "1000-0700", ["P1"]),
            ("20240229-", "1031-", ["P2"]),
            ("20240229", "0700-0900", []),
            ("20240301", "0700-0900", ["P2"]),
        ],
    )
    def test_two_ranges_of_date_and_time_are_one_interval(
        self, folder: Path, dates: str, times: str, expected: list[str]
    ) -> None:
        """Table K.6-1: without negotiation, unlike Query/Retrieve."""
        step = {"ScheduledProcedureStepStartDate": dates, "ScheduledProcedureStepStartTime": times}
        assert found(ask(folder, {"PatientID": "", SPS: step})) == expected


class TestK221OptionalKeys:
    def test_k22111_an_unknown_value_fails_against_a_value_and_is_found_by_a_universal_key(
        self, tmp_path: Path
    ) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1", AccessionNumber="", PatientBirthDate=None)
        assert not answers(ask(tmp_path, {"PatientID": "", "AccessionNumber": "A*"}))
        assert not answers(ask(tmp_path, {"PatientID": "", "PatientBirthDate": "19700101"}))
        assert found(ask(tmp_path, {"PatientID": "", "AccessionNumber": "*", "PatientBirthDate": ""})) == ["P1"]

    def test_k22112_an_unsupported_key_is_not_matched_nor_answered_and_said_so(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1")
        request = ask(tmp_path, {"PatientID": "", "AcquisitionNumber": "7", SPS: {"Modality": ""}})
        assert request.statuses == [PENDING_WARNING, SUCCESS]
        assert "AcquisitionNumber" not in answers(request)[0]

    def test_a_key_outside_the_table_is_matched_where_a_step_holds_it(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1", PatientComments="one")
        make_worklist_file(tmp_path / "2.wl", PatientID="P2", PatientComments="two")
        request = ask(tmp_path, {"PatientID": "", "PatientComments": "two"})
        assert request.statuses == [PENDING, SUCCESS]
        assert found(request) == ["P2"]

    @pytest.mark.parametrize(
        "step", [{"ScheduledProcedureStepDescription": "CT *"}, {"ScheduledProcedureStepID": "SPS*"}]
    )
    def test_optional_keys_of_the_step_are_matched(self, tmp_path: Path, step: dict[str, str]) -> None:
        make_worklist_file(
            tmp_path / "1.wl",
            PatientID="P1",
            ScheduledProcedureStepDescription="CT head",
            ScheduledProcedureStepID="SPS1",
        )
        make_worklist_file(
            tmp_path / "2.wl", PatientID="P2", ScheduledProcedureStepDescription="MR", ScheduledProcedureStepID="X"
        )
        assert found(ask(tmp_path, {"PatientID": "", SPS: step})) == ["P1"]


class TestK41132Response:
    def test_holds_exactly_what_was_requested(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1", Modality="CT", SpecificCharacterSet="ISO_IR 192")
        (answer,) = answers(ask(tmp_path, {"PatientID": "", SPS: {"Modality": ""}}))
        assert answer == data_set({"SpecificCharacterSet": "ISO_IR 100", "PatientID": "P1", SPS: {"Modality": "CT"}})

    def test_type_2_attributes_are_empty_when_unknown(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", Allergies=None, PregnancyStatus=None, ScheduledStationName=None)
        request = ask(tmp_path, {"Allergies": "", "PregnancyStatus": None, SPS: {"ScheduledStationName": ""}})
        assert request.statuses == [PENDING, SUCCESS]
        (answer,) = answers(request)
        assert answer["Allergies"].is_empty
        assert answer["PregnancyStatus"].is_empty
        assert answer[SPS][0]["ScheduledStationName"].is_empty

    @pytest.mark.parametrize("keyword", ["StudyInstanceUID", "RequestedProcedureID"])
    def test_optional_attributes_of_type_1_are_never_empty(self, tmp_path: Path, keyword: str) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1", **{keyword: ""})
        request = ask(tmp_path, {"PatientID": "", keyword: ""})
        assert request.statuses == [PENDING_WARNING, SUCCESS]
        assert keyword not in answers(request)[0]

    @pytest.mark.parametrize("items", [[], [{}]], ids=["no item", "one empty item"])
    def test_k2212_note_4_a_universal_sequence_is_answered_in_full(
        self, tmp_path: Path, items: list[dict[str, Any]]
    ) -> None:
        entry = make_worklist_file(tmp_path / "1.wl")
        keys = Dataset()
        keys.add_new(0x00400100, "SQ", [data_set(item) for item in items])
        (answer,) = answers(ask(tmp_path, keys))
        assert answer[SPS].value == entry[SPS].value

    def test_only_matching_items_of_other_sequences(self, tmp_path: Path) -> None:
        codes = [{"CodeValue": value, "CodingSchemeDesignator": "99X", "CodeMeaning": value} for value in ("A", "B")]
        make_worklist_file(tmp_path / "1.wl", ScheduledProtocolCodeSequence=codes)
        keys = {SPS: {"ScheduledProtocolCodeSequence": {"CodeValue": "B", "CodeMeaning": ""}}}
        (answer,) = answers(ask(tmp_path, keys))
        assert answer == data_set({"SpecificCharacterSet": "ISO_IR 100", SPS: {
            "ScheduledProtocolCodeSequence": {"CodeValue": "B", "CodeMeaning": "B"}}})  # fmt: skip

    def test_the_clock_of_the_times_goes_with_them(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", TimezoneOffsetFromUTC="+0100")
        (answer,) = answers(ask(tmp_path, EVERYTHING))
        assert answer.TimezoneOffsetFromUTC == "+0100"

    @pytest.mark.parametrize(
        ("stored", "default", "name", "answered"),
        [
            ("ISO_IR 192", "Latin1", "Müller^Élodie", "ISO_IR 100"),
            ("ISO_IR 192", "Latin1", "山田^太郎", "ISO_IR 192"),
            ("ISO_IR 192", "Greek", "Διονυσιος", "ISO_IR 126"),
            ("ISO_IR 100", "Utf8", "Müller", "ISO_IR 192"),
            ("ISO_IR 100", "Ascii", "Müller", "ISO_IR 192"),
            ("ISO_IR 100", "Ascii", "Miller", None),
            (["", "ISO 2022 IR 87"], "Latin1", "Yamada^Tarou=山田^太郎", "ISO_IR 192"),
            ("GB18030", "Chinese", "Wang^XiaoDong=王^小东", "GB18030"),
        ],
    )
    def test_the_character_set_is_the_default_one_where_it_has_all_characters_else_unicode(
        self, tmp_path: Path, stored: str | list[str], default: str, name: str, answered: str | None
    ) -> None:
        make_worklist_file(tmp_path / "1.wl", SpecificCharacterSet=stored, PatientName=name)
        request = ask(tmp_path, {"PatientName": "", SPS: {"Modality": ""}}, dicom={"default_encoding": default})
        (answer,) = answers(request)
        assert answer.get("SpecificCharacterSet") == answered
        assert str(received(answer).PatientName) == name

    def test_every_answer_can_be_encoded(self, tmp_path: Path) -> None:
        entry = make_worklist_file(tmp_path / "1.wl")
        (answer,) = answers(ask(tmp_path, entry))
        assert encode(answer)


class TestPractice:
    """What modalities send, beyond the Standard."""

    def test_group_lengths_are_ignored(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1")
        keys = data_set(EVERYTHING)
        for group in (0x00080000, 0x00100000, 0x00400000):
            keys.add_new(group, "UL", 100)
        request = ask(tmp_path, keys)
        assert request.statuses == [PENDING, SUCCESS]
        assert not [element for element in answers(request)[0] if element.tag.element == 0]

    def test_private_attributes_do_not_hide_a_step(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1")
        keys = data_set(EVERYTHING)
        keys.add_new(0x00090010, "LO", "GEMS_ACQU_01")
        keys.add_new(0x00091001, "LO", "SOMETHING")
        keys.add_new(0x00111001, "LO", "NO CREATOR")
        assert found(ask(tmp_path, keys)) == ["P1"]

    def test_a_query_retrieve_level_is_ignored(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1")
        assert found(ask(tmp_path, {**EVERYTHING, "QueryRetrieveLevel": "WORKLIST"})) == ["P1"]

    def test_asterisks_everywhere(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1")
        step = with_bytes(data_set(Modality="*"), "ScheduledProcedureStepStartDate", b"* ")
        keys = data_set(PatientID="*", PatientName="*")
        keys.ScheduledProcedureStepSequence = [step]
        assert found(ask(tmp_path, keys)) == ["P1"]

    def test_a_key_without_a_character_set_has_the_default_one(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", SpecificCharacterSet="ISO_IR 192", PatientID="P1", PatientName="Łoś")
        keys = with_bytes(data_set(PatientID=""), "PatientName", "łoś ".encode("iso8859_2"))
        assert found(ask(tmp_path, keys, dicom={"default_encoding": "Latin2"})) == ["P1"]


class TestOrthancsOptions:
    def test_filter_issuer_aet_hides_what_is_scheduled_for_other_stations(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1", ScheduledStationAETitle="CT1")
        make_worklist_file(tmp_path / "2.wl", PatientID="P2", ScheduledStationAETitle=["MR1", "CT1"])
        make_worklist_file(tmp_path / "3.wl", PatientID="P3", ScheduledStationAETitle="MR1")
        filtering = service(tmp_path, filter_issuer_aet=True)
        request = request_for(EVERYTHING, peer=calling("CT1"))
        filtering.serve(request)
        assert found(request) == ["P1", "P2"]

    def test_filter_issuer_aet_does_not_overwrite_what_was_asked(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientID="P1", ScheduledStationAETitle="CT1")
        make_worklist_file(tmp_path / "2.wl", PatientID="P2", ScheduledStationAETitle="MR1")
        request = request_for({"PatientID": "", SPS: {"ScheduledStationAETitle": "MR1"}}, peer=calling("CT1"))
        service(tmp_path, filter_issuer_aet=True).serve(request)
        assert request.statuses == [SUCCESS]

    def test_filter_issuer_aet_takes_the_title_literally(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", ScheduledStationAETitle="CT1")
        request = request_for(EVERYTHING, peer=calling("*"))
        service(tmp_path, filter_issuer_aet=True).serve(request)
        assert request.statuses == [SUCCESS]

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            (0, [PENDING] * 3 + [SUCCESS]),
            (2, [PENDING] * 2 + [CANCEL]),
            (3, [PENDING] * 3 + [SUCCESS]),
            (4, [PENDING] * 3 + [SUCCESS]),
        ],
    )
    def test_limit_answers(self, tmp_path: Path, limit: int, expected: list[int]) -> None:
        for number in range(3):
            make_worklist_file(tmp_path / f"{number}.wl")
        assert ask(tmp_path, EVERYTHING, limit_answers=limit).statuses == expected

    def test_case_sensitive_pn(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl", PatientName="Smith^John")
        keys = {"PatientID": "", "PatientName": "SMITH*"}
        assert len(answers(ask(tmp_path, keys))) == 1
        assert not answers(ask(tmp_path, keys, dicom={"case_sensitive_pn": True}))


class TestCancel:
    def test_ends_the_answers(self, tmp_path: Path) -> None:
        for number in range(5):
            make_worklist_file(tmp_path / f"{number}.wl")

        def cancel_after_two(request: RecordedRequest) -> None:
            request.is_cancelled = len(request.responses) == 2

        request = request_for(EVERYTHING, on_respond=cancel_after_two)
        service(tmp_path).serve(request)
        assert request.statuses == [PENDING, PENDING, CANCEL]
        assert request.final.identifier is None

    def test_is_noticed_while_nothing_matches(self, tmp_path: Path) -> None:
        class Endless(Sequence[Candidate]):
            def __len__(self) -> int:
                return 1 << 60

            def __getitem__(self, index: Any) -> Any:
                request.is_cancelled = index > 5000
                return Candidate({})

        request = request_for({"PatientID": "P1"})
        real = service(tmp_path).serve.__self__  # type: ignore[attr-defined]  # the service behind the bound method
        worklist.WorklistService(
            source=type("Source", (), {"entries": lambda _self, _selection: Endless()})(),
            settings=DicomSettings,
            options=real.options,
            filter_issuer_aet=False,
            limit_answers=0,
        ).serve(request)
        assert request.statuses == [CANCEL]


class TestRefusals:
    def test_a_malformed_key_is_refused_by_name_without_its_value(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        step = with_bytes(Dataset(), "ScheduledProcedureStepStartDate", b"tomorrow")
        keys = Dataset()
        keys.ScheduledProcedureStepSequence = [step]
        request = RecordedRequest(None, MODALITY_WORKLIST_FIND, keys=keys)
        with caplog.at_level(logging.INFO, worklist.__name__):
            service(tmp_path).serve(request)
        assert request.statuses == [DATA_SET_DOES_NOT_MATCH]
        assert request.final.fields == {"ErrorComment": "ScheduledProcedureStepStartDate: not a DA value"}
        assert request.final.identifier is None
        (record,) = caplog.records
        assert record.getMessage().startswith("worklist_query_refused status=0xA900 calling_ae_title='WORKSTATION'")
        assert "tomorrow" not in caplog.text

    def test_two_items_in_the_step_key(self, tmp_path: Path) -> None:
        request = ask(tmp_path, {SPS: [{"Modality": "CT"}, {"Modality": "MR"}]})
        assert request.statuses == [DATA_SET_DOES_NOT_MATCH]

    def test_an_identifier_that_cannot_be_decoded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_self: RecordedRequest) -> Dataset:
            raise Refusal(CANNOT_UNDERSTAND, "identifier cannot be decoded")

        monkeypatch.setattr(RecordedRequest, "identifier", refuse)
        assert ask(tmp_path, EVERYTHING).statuses == [CANNOT_UNDERSTAND]

    def test_a_folder_that_cannot_be_read(self, tmp_path: Path) -> None:
        request = ask(tmp_path / "absent", EVERYTHING)
        assert request.statuses == [CANNOT_UNDERSTAND]
        assert request.final.fields == {"ErrorComment": "the worklist cannot be read"}

    def test_an_empty_identifier_asks_for_nothing_and_gets_that(self, tmp_path: Path) -> None:
        make_worklist_file(tmp_path / "1.wl")
        request = ask(tmp_path, Dataset())
        assert request.statuses == [PENDING, SUCCESS]
        assert [element.keyword for element in answers(request)[0]] == ["SpecificCharacterSet"]
