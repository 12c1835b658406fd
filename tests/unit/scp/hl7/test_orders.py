"""Orders in HL7 messages as worklist attributes (IHE RAD TF-2x Appendix B)."""

from __future__ import annotations

import pytest

from config.options import HL7_CHARACTER_SETS
from config.settings import Hl7Settings
from scp.hl7.errors import Rejected
from scp.hl7.message import CHARACTER_SETS, Message, unescaped
from scp.hl7.orders import Step, steps_of
from tests.fakes.hl7_orders import omi, orm

SETTINGS = Hl7Settings()


def steps(text: str | bytes, settings: Hl7Settings = SETTINGS) -> list[Step]:
    return steps_of(Message(text.encode() if isinstance(text, str) else text, "8859/1"), settings)


def rejection(text: str | bytes) -> Rejected:
    with pytest.raises(Rejected) as rejected:
        steps(text)
    return rejected.value


def test_orm_o01_is_mapped_as_the_table_says() -> None:
    (step,) = steps(orm())
    assert (step.order, step.step_id, step.status) == ("placer PL1^RIS", "SPS1", "SCHEDULED")
    assert step.study == {
        "PatientName": "Muster^Jürgen^M^Dr^Jr PhD",  # prefix before suffix, unlike in HL7
        "PatientID": "P1",
        "IssuerOfPatientID": "HOSP",
        "PatientBirthDate": "19700102",
        "PatientSex": "M",
        "AdmissionID": "ADM2",
        "CurrentPatientLocation": "Ward 3",
        "ReferringPhysicianName": "Refer^Rita",
        "PregnancyStatus": 3,
        "PlacerOrderNumberImagingServiceRequest": "PL1",
        "FillerOrderNumberImagingServiceRequest": "FPL1",
        "RequestingPhysician": "Request^Reno",
        "PatientState": "Stable",
        "MedicalAlerts": "Allergic",
        "PatientTransportArrangements": "WALK",
        "ReasonForTheRequestedProcedure": "Head ache",
        "RequestedProcedureCodeSequence": [
            {"CodeValue": "RPC", "CodeMeaning": "Head", "CodingSchemeDesignator": "99L"}
        ],
        "RequestedProcedureDescription": "Head",
        "RequestedProcedurePriority": "STAT",
        "RequestedProcedureComments": None,
        "AccessionNumber": "ACC1",
        "RequestedProcedureID": "RP1",
        "StudyInstanceUID": "1.2.3.4",
    }
    assert step.step == {
        "ScheduledProcedureStepID": "SPS1",
        "Modality": "CT",
        "ScheduledProtocolCodeSequence": [
            {"CodeValue": "PROT", "CodeMeaning": "CT head native", "CodingSchemeDesignator": "99P"}
        ],
        "ScheduledProcedureStepDescription": "CT head native",
        "ScheduledStationAETitle": "CT1",
        "ScheduledProcedureStepStartDate": "20240229",
        "ScheduledProcedureStepStartTime": "1030",
        "ScheduledPerformingPhysicianName": "Perform^Paul",
        "ScheduledProcedureStepStatus": "SCHEDULED",
    }


def test_omi_o23_is_one_step_for_each_ipc() -> None:
    first, second = steps(omi())
    assert (first.step_id, second.step_id) == ("S1", "S2")
    assert first.order == second.order == "placer PL9^RIS"
    assert first.study["PatientName"] == "Yamada^Tarou=山田^太郎"
    assert (first.study["AccessionNumber"], first.study["StudyInstanceUID"]) == ("ACC9", "1.2.3.9")
    assert first.study["RequestedProcedurePriority"] == "ROUTINE"
    assert first.step["ScheduledStationAETitle"] == "MR1"
    assert (first.step["ScheduledStationName"], first.step["ScheduledProcedureStepLocation"]) == ("Scanner", "Room 2")
    assert (first.step["ScheduledProcedureStepStartDate"], first.step["ScheduledProcedureStepStartTime"]) == (
        "20240301",
        "083000",
    )


@pytest.mark.parametrize(
    ("accession", "issuer"),
    [
        ("ACC9", None),
        ("ACC9^HOSP", {"LocalNamespaceEntityID": "HOSP"}),
        (
            "ACC9^HOSP^1.2.3^ISO",
            {"LocalNamespaceEntityID": "HOSP", "UniversalEntityID": "1.2.3", "UniversalEntityIDType": "ISO"},
        ),
        ("ACC9^^1.2.3", None),
        ("ACC9^HOSP^1.2.3^NONE", {"LocalNamespaceEntityID": "HOSP"}),
    ],
)
def test_ipc_1_names_the_issuer_of_the_accession_number(accession: str, issuer: dict[str, str] | None) -> None:
    (step,) = steps(omi(steps=("S1",)).replace("IPC|ACC9|", f"IPC|{accession}|"))
    assert step.study["AccessionNumber"] == "ACC9"
    assert step.study["IssuerOfAccessionNumberSequence"] == ([issuer] if issuer else None)


def test_omg_o19_is_read_like_orm() -> None:
    (step,) = steps(orm().replace("ORM^O01", "OMG^O19^OMG_O19"))
    assert step.step["Modality"] == "CT"


@pytest.mark.parametrize(
    ("control", "status", "expected"),
    [
        ("NW", "SC", "SCHEDULED"),
        ("NW", "IP", "SCHEDULED"),
        ("XO", "SC", "SCHEDULED"),
        ("XO", "CM", "COMPLETED"),
        ("SC", "CM", "COMPLETED"),
        ("CA", "CA", "CANCELED"),
        ("OC", "", "CANCELED"),
        ("DC", "CA", "DISCONTINUED"),
    ],
)
def test_orc_1_and_orc_5_decide_the_status(control: str, status: str, expected: str) -> None:
    assert steps(orm(control=control, status=status))[0].status == expected


def test_the_protocol_code_is_taken_from_where_the_settings_say() -> None:
    (step,) = steps(orm(), Hl7Settings(alternate_protocol_code=False))
    assert step.step["ScheduledProtocolCodeSequence"][0]["CodeValue"] == "CODE"
    (step,) = steps(orm().replace("^PROT^CT head native^99P", ""))
    assert step.step["ScheduledProcedureStepDescription"] == "CT head"


def test_a_station_that_no_order_names_follows_from_the_modality() -> None:
    (step,) = steps(orm(station=""), Hl7Settings(station_ae_titles={"CT": "CT7"}))
    assert step.step["ScheduledStationAETitle"] == "CT7"
    (step,) = steps(orm(station=""))
    assert step.step["ScheduledStationAETitle"] is None


def test_nothing_said_and_deleted_are_different() -> None:
    (step,) = steps(orm(birth="", sex='""', accession='""'))
    assert step.study["PatientBirthDate"] is None
    assert step.study["PatientSex"] == ""
    assert step.study["AccessionNumber"] == ""


def test_a_caret_inside_a_name_does_not_make_a_component() -> None:
    assert steps(orm(name=r"Mus\S\ter^An\T\na"))[0].study["PatientName"] == "Mus ter^An&na"


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"\X41\\X4243\ ", "ABC "),
        (r"\Xzz\x", "x"),
        (r"one\.br\two", "one\ntwo"),
        (r"\H\bold\N\ ", "bold "),
        ("a\\b", "a\\b"),
        ("\\", "\\"),
        ("", ""),
    ],
)
def test_hl7_2_10_escape_sequences(escaped: str, plain: str) -> None:
    assert unescaped(escaped, "|^~\\&") == plain


@pytest.mark.parametrize(
    ("name", "codec", "text"),
    [
        ("8859/1", "latin_1", "Jürgen"),
        ("", "latin_1", "Jürgen"),
        ("8859/2", "iso8859_2", "Łukasz"),
        ("8859/5", "iso8859_5", "Юрий"),
        ("8859/15", "iso8859_15", "Œuf"),
        ("UNICODE UTF-8", "utf_8", "山田"),
        ("GB 18030-2000", "gb18030", "亅丂"),
        ("BIG-5", "big5", "功許"),  # second bytes are those of `\` and `|`
        ("KS X 1001", "euc_kr", "김"),
        ("ISO IR14~ISO IR87", "iso2022_jp", "山田"),
    ],
)
def test_msh_18_is_the_character_set(name: str, codec: str, text: str) -> None:
    message = orm(name=f"{text}^A", character_set=name).encode(codec)
    assert steps(message)[0].study["PatientName"] == f"{text}^A"


def test_the_character_sets_that_can_be_configured_can_be_read() -> None:
    assert set(HL7_CHARACTER_SETS) <= set(CHARACTER_SETS)


@pytest.mark.parametrize("ending", ["\r", "\n", "\r\n"])
def test_segments_may_end_as_on_any_system(ending: str) -> None:
    assert len(steps(orm().replace("\r", ending))) == 1


def test_other_delimiters_may_be_used() -> None:
    text = orm(name="Muster#Anna", patient_id="P1").replace("^", "#").replace("~", "$")
    assert steps(text)[0].study["PatientName"] == "Muster^Anna"


@pytest.mark.parametrize(
    ("text", "code", "condition", "segment", "number"),
    [
        ("", "AR", 100, "MSH", 1),
        ("HELLO|world", "AR", 100, "MSH", 1),
        (orm(character_set="MARTIAN"), "AR", 103, "MSH", 18),
        (orm(character_set="ASCII", name="Jürgen"), "AR", 103, "MSH", 18),
        (orm(control_id=""), "AR", 101, "MSH", 10),
        (orm().replace("ORM^O01", "ADT^A08"), "AR", 200, "MSH", 9),
        (orm(version="3.0"), "AR", 203, "MSH", 12),
        (orm() + "|" * 20_000, "AR", 100, "MSH", 1),
        (orm() + "NTE|\r" * 20_000, "AR", 100, "MSH", 1),
        (orm(control="ZZ"), "AE", 103, "ORC", 1),
        (orm(control="XO", status="ZZ"), "AE", 103, "ORC", 5),
        (orm(start="tomorrow"), "AE", 102, "ORC", 7),
        (orm().replace("\rPID", "\rPIX"), "AE", 100, "PID", 0),
        (orm().replace("\rORC", "\rORX"), "AE", 100, "ORC", 0),
        (orm().replace("\rOBR", "\rOBX"), "AE", 100, "OBR", 0),
        (omi(steps=()), "AE", 100, "IPC", 0),
        (orm(accession="").replace("FPL1^RIS", "").replace("PL1^RIS", ""), "AE", 101, "ORC", 2),
    ],
)
def test_what_cannot_be_used_is_rejected_with_its_place(
    text: str, code: str, condition: int, segment: str, number: int
) -> None:
    rejected = rejection(text)
    assert (rejected.code, rejected.condition, rejected.segment, rejected.field) == (code, condition, segment, number)
    assert "Muster" not in str(rejected)
