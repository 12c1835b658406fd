"""C-FIND of PS3.4 C.4.1: which entities answer, with which attributes and statuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from config.settings import DicomSettings
from scp.orthanc_client import OrthancUnreachable
from scp.query.private_dictionary import private_vrs
from scp.services.find import FindService, negotiate_extensions
from scp.statuses import CANNOT_UNDERSTAND, Refusal
from tests.fakes.archive import ARCHIVE, instance
from tests.fakes.dimse_request import RecordedRequest
from tests.fakes.orthanc_index import FakeOrthanc

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_STUDY_ONLY = "1.2.840.10008.5.1.4.1.2.3.1"

SUCCESS, CANCEL, PENDING, PENDING_WARNING = 0x0000, 0xFE00, 0xFF00, 0xFF01


def find(
    level: str,
    keys: dict[str, Any] | None = None,
    *,
    root: str = STUDY_ROOT,
    settings: DicomSettings | None = None,
    orthanc: FakeOrthanc | None = None,
    extended: bytes = b"",
    cancel_after: int = 10**6,
) -> RecordedRequest:
    identifier = Dataset()
    if level:
        identifier.QueryRetrieveLevel = level
    for keyword, value in (keys or {}).items():
        setattr(identifier, keyword, value)

    def cancel(request: RecordedRequest) -> None:
        request.is_cancelled = len(request.responses) >= cancel_after

    request = RecordedRequest(None, root, keys=identifier, extended_negotiation=extended, on_respond=cancel)
    FindService(lambda: settings or DicomSettings(), orthanc or FakeOrthanc(ARCHIVE)).serve(request)
    return request


def answers(request: RecordedRequest) -> list[Dataset]:
    """Identifiers of the pending responses; the final status must be success."""
    assert request.final.status == SUCCESS, request.final
    assert request.final.identifier is None  # PS3.4 C.4.1.3.1
    pending = request.responses[:-1]
    assert {response.status for response in pending} <= {PENDING, PENDING_WARNING}
    return [response.identifier for response in pending if isinstance(response.identifier, Dataset)]


def values(request: RecordedRequest, keyword: str) -> list[Any]:
    return sorted(str(answer[keyword].value) for answer in answers(request))


# --- PS3.4 C.4.1.3.1: what a response holds


def test_ps34_c_4_1_3_1_1_unique_keys_of_this_level_and_those_above_are_returned() -> None:
    for answer in answers(find("IMAGE", root=PATIENT_ROOT)):
        assert {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"} <= set(answer.dir())
    for answer in answers(find("SERIES")):
        assert "StudyInstanceUID" in answer
        assert "PatientID" not in answer, "the Study Root has no level above STUDY, and nobody asked"


def test_ps34_c_4_1_1_3_2_level_and_retrieve_ae_title_are_returned_and_nothing_unasked() -> None:
    settings = DicomSettings(ae_title="ARCHIVE", default_encoding="Ascii")
    for answer in answers(find("STUDY", {"StudyDate": ""}, settings=settings)):
        assert set(answer.dir()) == {"QueryRetrieveLevel", "RetrieveAETitle", "StudyInstanceUID", "StudyDate"}
        assert answer.QueryRetrieveLevel == "STUDY"
        assert answer.RetrieveAETitle == "ARCHIVE"


def test_ps34_c_2_2_2_3_an_attribute_without_a_value_is_returned_with_zero_length() -> None:
    request = find("STUDY", {"StudyDescription": ""})
    assert values(request, "StudyDescription") == ["", "", ""]
    assert set(request.statuses[:-1]) == {PENDING}


def test_level_instance_is_image_as_with_orthanc() -> None:
    assert values(find("INSTANCE"), "QueryRetrieveLevel") == ["IMAGE"] * 5


def test_no_match_is_one_response_without_identifier() -> None:
    request = find("STUDY", {"PatientID": "nobody"})
    assert request.statuses == [SUCCESS]
    assert request.final.identifier is None


# --- PS3.4 C.2.2.2: matching, whatever Orthanc's candidates were


@pytest.mark.parametrize(
    ("keys", "studies"),
    [
        ({"PatientID": "P1"}, ["1.1", "1.2"]),
        ({"PatientID": "p1"}, []),
        ({"PatientName": "doe^*"}, ["1.1", "1.2"]),
        ({"PatientName": "DOE^JANE^^"}, ["1.1", "1.2"]),
        ({"PatientName": "N??EZ*"}, ["2.1"]),
        ({"PatientName": "n?ez*"}, []),
        ({"PatientName": "*juan"}, ["2.1"]),
        ({"StudyDate": "20240301"}, ["1.2"]),
        ({"StudyDate": "20240101-"}, ["1.1", "1.2"]),
        ({"StudyDate": "-20240229"}, ["1.1", "2.1"]),
        ({"StudyTime": "08-0930"}, ["1.2"]),
        ({"StudyInstanceUID": ["1.1", "2.1", "9.9"]}, ["1.1", "2.1"]),
        ({"AccessionNumber": "A*"}, ["1.1"]),
        ({"AccessionNumber": "*"}, ["1.1", "1.2", "2.1"]),
        ({"ModalitiesInStudy": "SR"}, ["1.1"]),
        ({"ModalitiesInStudy": ["MR", "SR"]}, ["1.1", "1.2"]),
        ({"ModalitiesInStudy": "C*"}, ["1.1", "2.1"]),
        ({"SOPClassesInStudy": MRImageStorage}, ["1.2"]),
        ({"PatientID": "P1", "StudyDate": "2024-"}, None),
    ],
)
def test_ps34_c_2_2_2_matching_of_studies(keys: dict[str, Any], studies: list[str] | None) -> None:
    if studies is None:
        assert find("STUDY", keys).statuses == [0xA900]
    else:
        assert values(find("STUDY", keys), "StudyInstanceUID") == studies


def test_an_empty_stored_value_matches_no_key_as_with_orthanc() -> None:
    assert values(find("STUDY", {"AccessionNumber": "A2"}), "StudyInstanceUID") == []


def test_ps34_c_4_1_3_2_keys_of_lower_levels_select_what_contains_a_match_once() -> None:
    request = find("STUDY", {"Modality": "CT"})
    assert values(request, "StudyInstanceUID") == ["1.1", "2.1"]
    assert values(request, "Modality") == ["CT", "CT"]
    patients = find(
        "PATIENT", {"StudyDate": "2024-", "Modality": ["MR", "CT"]} | {"StudyDate": "20240101-"}, root=PATIENT_ROOT
    )
    assert values(patients, "PatientID") == ["P1"]
    assert values(find("SERIES", {"SOPInstanceUID": "1.1.1.2"}), "SeriesInstanceUID") == ["1.1.1"]


def test_an_empty_modality_of_a_study_is_answered_with_modalities_in_study() -> None:
    request = find("STUDY", {"Modality": "", "StudyInstanceUID": "1.1"})
    assert list(answers(request)[0].Modality) == ["CT", "SR"]
    assert request.statuses == [PENDING, SUCCESS]


def test_ps34_c_2_2_2_5_4_date_and_time_are_combined_only_when_negotiated() -> None:
    keys = {"StudyDate": "20240229-20240301", "StudyTime": "1000-0900"}
    assert find("STUDY", keys).statuses == [SUCCESS]
    combined = find("STUDY", keys, extended=b"\0\1")
    assert values(combined, "StudyInstanceUID") == ["1.1", "1.2"]


def test_ps34_c_2_2_2_7_empty_value_matching_when_negotiated() -> None:
    keys = {"AccessionNumber": '""'}
    assert values(find("STUDY", keys, extended=b"\0\0\0\0\0\1"), "StudyInstanceUID") == ["1.2", "2.1"]
    assert values(find("STUDY", keys), "StudyInstanceUID") == []


def test_ps34_c_5_1_1_extended_negotiation_is_answered_byte_by_byte() -> None:
    assert negotiate_extensions(b"\1\1\1\1\1\1\1") == b"\1\1\1\1\0\1\1"
    assert negotiate_extensions(b"\1") == b"\1"
    assert negotiate_extensions(b"\0\0") == b"\0\0"


def test_ps34_c_2_2_2_1_1_names_match_fuzzily_only_when_negotiated() -> None:
    """Orthanc cannot know which names are alike: it is not asked for names then."""
    keys = {"PatientName": "juan nunez", "StudyDate": "-20240229"}
    assert values(find("STUDY", keys), "StudyInstanceUID") == []
    orthanc = FakeOrthanc(ARCHIVE)
    assert values(find("STUDY", keys, orthanc=orthanc, extended=b"\0\0\1"), "StudyInstanceUID") == ["2.1"]
    (query,) = {tuple(asked[2]) for asked in orthanc.requests if asked[0] == "find"}
    assert query == ("0008,0020",)


def test_ps34_c_5_1_1_dates_and_times_are_by_the_clock_of_the_request_when_negotiated(
    machine_in: Callable[[str], None],
) -> None:
    """Study 1.2 began on 20240301 at 08:00 by our clock: on the day before in Honolulu."""
    machine_in("UTC")
    keys = {"StudyDate": "20240229", "StudyTime": "", "TimezoneOffsetFromUTC": "-1000", "PatientID": "P1"}
    assert values(find("STUDY", keys), "StudyInstanceUID") == ["1.1"]
    orthanc = FakeOrthanc(ARCHIVE)
    found = answers(find("STUDY", keys, orthanc=orthanc, extended=b"\0\0\0\1"))
    assert [answer.StudyInstanceUID for answer in found] == ["1.1", "1.2"]
    assert {answer.StudyDate for answer in found} == {"20240229"}
    assert {answer.TimezoneOffsetFromUTC for answer in found} == {"-1000"}
    asked = [request[2]["0008,0020"] for request in orthanc.requests if request[0] == "find"]
    wide_enough = r"20240228\2024.02.28\20240229\2024.02.29\20240301\2024.03.01"
    assert asked == [wide_enough]


def test_a_timezone_that_is_none_is_a900_when_negotiated() -> None:
    keys = {"StudyDate": "20240229", "TimezoneOffsetFromUTC": "+9900"}
    assert find("STUDY", keys, extended=b"\0\0\0\1").statuses == [0xA900]
    assert find("STUDY", keys).final.status == SUCCESS


@pytest.mark.parametrize(
    ("level", "root", "keys"),
    [
        ("SERIES", STUDY_ROOT, {"SeriesInstanceUID": ""}),
        ("SERIES", STUDY_ROOT, {"StudyInstanceUID": "", "SeriesInstanceUID": ""}),
        ("SERIES", STUDY_ROOT, {"StudyInstanceUID": ["1.1", "1.2"], "SeriesInstanceUID": ""}),
        ("STUDY", PATIENT_ROOT, {"PatientID": "P*", "StudyInstanceUID": ""}),
        ("SERIES", STUDY_ROOT, {"StudyInstanceUID": "1.1"}),
        ("STUDY", STUDY_ROOT, {"StudyInstanceUID": "", "Modality": "CT"}),
        ("STUDY", STUDY_ROOT, {"StudyInstanceUID": "", "SeriesInstanceUID": "1.1.1"}),
        ("STUDY", PATIENT_ROOT, {"PatientID": "P1", "StudyInstanceUID": "", "PatientName": "DOE*"}),
    ],
)
def test_ps34_c_4_1_2_1_strict_hierarchy_refuses_what_was_not_negotiated(
    level: str, root: str, keys: dict[str, Any]
) -> None:
    strict = DicomSettings(strict_hierarchy=True)
    request = find(level, keys, root=root, settings=strict)
    assert request.statuses == [0xA900]
    assert "StrictHierarchy" in str(request.final.fields["ErrorComment"])
    assert find(level, keys, root=root, settings=strict, extended=b"\1").final.status == SUCCESS
    assert find(level, keys, root=root).final.status == SUCCESS, "as with Orthanc"


def test_ps34_c_4_1_2_1_strict_hierarchy_takes_baseline_queries() -> None:
    strict = DicomSettings(strict_hierarchy=True)
    study = {"StudyInstanceUID": "", "PatientName": "DOE*", "StudyDate": "", "Modality": ""}
    assert len(answers(find("STUDY", study, settings=strict))) == 2
    images = {"PatientID": "P1", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1", "SOPInstanceUID": ""}
    assert len(answers(find("IMAGE", images, root=PATIENT_ROOT, settings=strict))) == 2


def test_ps34_c_2_2_1_2_unknown_values_match_every_key_when_configured() -> None:
    """Orthanc's index cannot tell them: it is asked for nothing that may be empty."""
    orthanc = FakeOrthanc(ARCHIVE)
    keys = {"AccessionNumber": "A1", "StudyInstanceUID": ["1.1", "1.2"], "StudyDate": "20240301"}
    settings = DicomSettings(unknown_values_match=True)
    assert values(find("STUDY", keys, settings=settings, orthanc=orthanc), "StudyInstanceUID") == ["1.2"]
    (query,) = (asked[2] for asked in orthanc.requests if asked[0] == "find")
    assert list(query) == ["0020,000d"]
    assert values(find("STUDY", keys), "StudyInstanceUID") == []


def test_ps34_c_4_1_3_1_a_cancel_is_honoured_while_nothing_matches() -> None:
    many = [
        instance(StudyInstanceUID=f"5.{n}", SeriesInstanceUID=f"5.{n}", SOPInstanceUID=f"5.{n}") for n in range(900)
    ]
    orthanc = FakeOrthanc(many)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyTime = "2300"
    request = RecordedRequest(None, STUDY_ROOT, keys=identifier)
    describe = orthanc.resources

    def cancel(*arguments: Any, **more: Any) -> list[dict[str, Any]]:
        request.is_cancelled = True
        return describe(*arguments, **more)

    orthanc.resources = cancel  # type: ignore[method-assign]
    FindService(DicomSettings, orthanc).serve(request)
    assert request.statuses == [CANCEL]
    assert sum(asked[2] for asked in orthanc.requests if asked[0] == "resources") < 200


# --- PS3.4 Table C.3-1: computed attributes


def test_ps34_table_c_3_1_counts_of_patients() -> None:
    keys = dict.fromkeys(
        ("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"), ""
    )
    orthanc = FakeOrthanc(ARCHIVE)
    found = {answer.PatientID: answer for answer in answers(find("PATIENT", keys, root=PATIENT_ROOT, orthanc=orthanc))}
    counts = {patient: tuple(int(answer[keyword].value) for keyword in keys) for patient, answer in found.items()}
    assert counts == {"P1": (2, 3, 4), "P2": (1, 1, 1)}
    assert len(orthanc.requests) == 5, "system, find, patients, studies, series: however many patients"


def test_ps34_table_c_3_1_counts_and_modalities_of_studies() -> None:
    keys = dict.fromkeys(("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy"), "")
    orthanc = FakeOrthanc(ARCHIVE)
    found = {answer.StudyInstanceUID: answer for answer in answers(find("STUDY", keys, orthanc=orthanc))}
    assert int(found["1.1"].NumberOfStudyRelatedSeries) == 2
    assert int(found["1.1"].NumberOfStudyRelatedInstances) == 3
    assert list(found["1.1"].ModalitiesInStudy) == ["CT", "SR"]
    assert found["1.2"].ModalitiesInStudy == "MR"
    assert len(orthanc.requests) == 4, "system, find, studies, series: however many studies"


def test_ps34_table_c_3_1_counts_of_series_and_sop_classes_of_studies() -> None:
    found = {a.SeriesInstanceUID: a for a in answers(find("SERIES", {"NumberOfSeriesRelatedInstances": ""}))}
    assert int(found["1.1.1"].NumberOfSeriesRelatedInstances) == 2
    studies = answers(find("STUDY", {"SOPClassesInStudy": "", "StudyInstanceUID": "1.2"}))
    assert studies[0].SOPClassesInStudy == MRImageStorage


def test_counts_as_keys_are_returned_and_not_matched() -> None:
    request = find("STUDY", {"NumberOfStudyRelatedInstances": "77"})
    assert values(request, "NumberOfStudyRelatedInstances") == ["1", "1", "3"]


def test_counts_of_lower_levels_are_unsupported_keys() -> None:
    request = find("STUDY", {"NumberOfSeriesRelatedInstances": ""})
    assert set(request.statuses) == {PENDING_WARNING, SUCCESS}
    assert all("NumberOfSeriesRelatedInstances" not in answer for answer in answers(request))


def test_sop_class_and_availability_of_images() -> None:
    keys = {"SOPClassUID": MRImageStorage, "InstanceAvailability": ""}
    (answer,) = answers(find("IMAGE", keys))
    assert (answer.SOPInstanceUID, answer.InstanceAvailability) == ("1.2.1.1", "ONLINE")


# --- PS3.4 C.2.2.1.3: optional keys outside of the index


def test_attributes_outside_of_the_index_are_read_from_files_of_the_matches_only() -> None:
    orthanc = FakeOrthanc(ARCHIVE)
    request = find("IMAGE", {"SOPInstanceUID": "1.2.1.1", "Rows": None}, orthanc=orthanc)
    assert answers(request)[0].Rows == 256
    assert [asked for asked in orthanc.requests if asked[0] == "tags"] == [("tags", "I3")]


@pytest.mark.parametrize(("level", "keyword"), [("STUDY", "StudyInstanceUID"), ("SERIES", "SeriesInstanceUID")])
def test_attributes_outside_of_the_index_can_be_matched(level: str, keyword: str) -> None:
    assert values(find(level, {"Rows": 512}), keyword) == ["2.1" if level == "STUDY" else "2.1.1"]
    assert values(find("PATIENT", {"Rows": 512}, root=PATIENT_ROOT), "PatientID") == ["P2"]


def test_ps34_c_2_2_1_3_with_too_many_candidates_they_are_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scp.services.find.FILES_PER_QUERY", 4)
    orthanc = FakeOrthanc(ARCHIVE)
    request = find("IMAGE", {"Rows": 512}, orthanc=orthanc)
    assert request.statuses == [PENDING_WARNING] * 5 + [SUCCESS]
    assert all("Rows" not in answer for answer in answers(request))
    assert not [asked for asked in orthanc.requests if asked[0] == "tags"]


@pytest.mark.parametrize("decoded", [True, False], ids=["Explicit VR", "Implicit VR"])
def test_private_attributes_are_keys_by_their_creator(decoded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PS3.5 7.8.1: whatever their block. Orthanc leaves those of Implicit VR undecoded; their bytes are asked for."""
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    tubes = [instance(SpecificCharacterSet="ISO_IR 100", **dict.fromkeys(uids, f"7.{n}")) for n in range(2)]
    for number, study in enumerate(tubes):
        study.private_block(0x0011, "OTHER", create=True).add_new(0x01, "LO", "Röhre 1")
        study.private_block(0x0011, "ACME 1.1", create=True).add_new(0x01, "LO", f"Röhre {number}")
    orthanc = FakeOrthanc(tubes)
    if not decoded:
        monkeypatch.setattr("tests.fakes.orthanc_index.UNDECODED", {0x00111001, 0x00111101})
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.private_block(0x0011, "ACME 1.1", create=True).add_new(0x01, "UN", "Röhre ?".encode())
    request = RecordedRequest(None, STUDY_ROOT, keys=identifier)
    vrs = private_vrs({"0011,1001": ("LO", "TubeSerial", 1, 1, "ACME 1.1"), "0014,1020": ("DA", "Expiry", 1, 1)})
    FindService(DicomSettings, orthanc, vrs).serve(request)
    found = {a.StudyInstanceUID: a.private_block(0x0011, "ACME 1.1")[0x01].value for a in answers(request)}
    assert found == {"7.0": "Röhre 0", "7.1": "Röhre 1"}
    identifier.private_block(0x0011, "ACME 1.1")[0x01].value = "Röhre 1".encode()
    request = RecordedRequest(None, STUDY_ROOT, keys=identifier)
    FindService(DicomSettings, orthanc, vrs).serve(request)
    assert values(request, "StudyInstanceUID") == ["7.1"]


def test_a_file_removed_meanwhile_is_no_error() -> None:
    orthanc = FakeOrthanc(ARCHIVE)
    orthanc.instance_tags = lambda _id: FakeOrthanc([]).instance_tags("gone")  # type: ignore[method-assign]
    request = find("IMAGE", {"SOPInstanceUID": "1.2.1.1", "Rows": None}, orthanc=orthanc)
    assert request.statuses == [PENDING, SUCCESS]
    assert answers(request)[0]["Rows"].value is None


# --- PS3.4 C.4.1.1.3.2: character sets


@pytest.mark.parametrize(
    ("default_encoding", "expected"),
    [("Latin1", "ISO_IR 100"), ("Utf8", "ISO_IR 192"), ("Ascii", "ISO_IR 192"), ("Greek", "ISO_IR 192")],
)
def test_ps34_c_4_1_1_3_2_the_character_set_holds_every_character(default_encoding: str, expected: str) -> None:
    settings = DicomSettings(default_encoding=default_encoding)
    (answer,) = answers(find("STUDY", {"PatientName": "", "StudyInstanceUID": "2.1"}, settings=settings))
    assert answer.SpecificCharacterSet == expected
    assert str(answer.PatientName) == "Núñez^Juan"


# --- PS3.4 Table C.4-1: statuses


@pytest.mark.parametrize(
    ("level", "root"),
    [
        ("", STUDY_ROOT),
        ("ROOM", STUDY_ROOT),
        ("PATIENT", STUDY_ROOT),
        ("SERIES", PATIENT_STUDY_ONLY),
        (["STUDY", "SERIES"], STUDY_ROOT),
    ],
)
def test_ps34_table_c_4_1_a_level_that_the_model_has_not_is_a900(level: str, root: str) -> None:
    request = find(level, root=root)
    assert request.statuses == [0xA900]
    assert request.final.fields["ErrorComment"]


def test_ps34_table_c_4_1_an_identifier_that_cannot_be_decoded_gets_its_status() -> None:
    class Undecodable(RecordedRequest):
        def identifier(self) -> Dataset:
            raise Refusal(CANNOT_UNDERSTAND, "identifier is no data set")

    request = Undecodable(None, STUDY_ROOT)
    FindService(DicomSettings, FakeOrthanc(ARCHIVE)).serve(request)
    assert request.statuses == [0xC000]


def test_ps34_table_c_4_1_an_orthanc_that_fails_is_c000_and_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    orthanc = FakeOrthanc(ARCHIVE)

    def fail(*_: object, **__: object) -> list[str]:
        raise OrthancUnreachable("POST /tools/find: ReadTimeoutError")

    orthanc.find = fail  # type: ignore[assignment, method-assign]
    assert find("STUDY", {"PatientName": "Secret"}, orthanc=orthanc).statuses == [0xC000]
    (record,) = caplog.records
    assert record.getMessage().startswith("find_refused status=0xC000 calling_ae_title='WORKSTATION'")
    assert "Secret" not in record.getMessage()


def test_ps34_c_4_1_3_1_a_cancel_is_honoured_before_the_next_answer() -> None:
    assert find("IMAGE", cancel_after=2).statuses == [PENDING, PENDING, CANCEL]


@pytest.mark.parametrize("level", ["STUDY", "IMAGE"])
def test_limits_end_the_answers_as_with_orthanc(level: str) -> None:
    settings = DicomSettings(limit_find_results=2, limit_find_instances=2)
    assert find(level, settings=settings).statuses == [PENDING, PENDING, CANCEL]
    roomy = DicomSettings(limit_find_results=9, limit_find_instances=9)
    assert find(level, settings=roomy).final.status == SUCCESS


def test_memory_and_requests_do_not_grow_with_the_answers() -> None:
    """Answers are sent batch by batch, not collected: the first goes out when few candidates have been described."""
    many = [
        instance(StudyInstanceUID=f"5.{n}", SeriesInstanceUID=f"5.{n}.1", SOPInstanceUID=f"5.{n}.1.1")
        for n in range(300)
    ]
    orthanc = FakeOrthanc(many)
    described: list[int] = []

    def note(_request: RecordedRequest) -> None:
        described.append(sum(asked[2] for asked in orthanc.requests if asked[0] == "resources"))

    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    request = RecordedRequest(None, STUDY_ROOT, keys=identifier, on_respond=note)
    FindService(DicomSettings, orthanc).serve(request)
    assert request.statuses == [*[PENDING] * 300, SUCCESS]
    assert described[0] <= 50 + 100, "the first batch, and the next one ahead of time"
    assert len([asked for asked in orthanc.requests if asked[0] == "resources"]) == 3
